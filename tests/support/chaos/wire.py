"""What passes between those who take part: proxies that note every act, and may do it harm."""

import contextlib
import json
import re
import select
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from http.server import BaseHTTPRequestHandler
from socketserver import StreamRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

from servers.certificates import Certificates
from servers.web import Served

_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "server", "date"}
_AT_MOST = 2  # of acts with the same name: a third look at the same thing is as the second


@dataclass(frozen=True)
class Boundary:
    """An act: whose, what, and which of those with that name."""

    who: str  # controller or agent
    place: str  # provider, store, ssh, process or stage
    what: str
    number: int

    def __str__(self) -> str:
        return f"{self.who}:{self.place}:{self.what}#{self.number}"


@dataclass(frozen=True)
class Harm:
    """What becomes of one act. `before` and `after` are done in between, whoever waits."""

    before: Callable[[], object] = lambda: None
    after: Callable[[], object] = lambda: None
    status: int | None = None  # answered at once, with nothing done
    silent: bool = False  # nothing is done, and no answer ever comes
    lost: bool = False  # it is done, and the line breaks before the answer
    raises: bool = False  # of what is no request


NOTHING = Harm()


class Switchboard:
    """Sees every act before it is done; harms the one that it was told to."""

    def __init__(self) -> None:
        self.passed: list[Boundary] = []
        self.struck = False
        self._target = ""
        self._harm = NOTHING
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._lock = threading.Lock()

    def expect(self, target: str, harm: Harm = NOTHING) -> None:
        """Begin anew, and harm the act of that name when it comes."""
        with self._lock:
            self.passed.clear()
            self._counts.clear()
            self._target, self._harm, self.struck = target, harm, False

    def meet(self, who: str, place: str, what: str) -> Harm:
        """Note an act that is about to be done."""
        with self._lock:
            self._counts[who, place, what] += 1
            boundary = Boundary(who, place, what, self._counts[who, place, what])
            if boundary.number <= _AT_MOST:
                self.passed.append(boundary)
            if self.struck or str(boundary) != self._target:
                return NOTHING
            self.struck = True
            return self._harm


class Proxy(Served):
    """Passes requests on to one server; `name` says whose they are, None for nobody's business."""

    def __init__(
        self,
        upstream: str,
        board: Switchboard,
        place: str,
        name: Callable[[str, str, Any], tuple[str, str] | None],
        *,
        certificates: Certificates | None = None,
        trusted: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(_handler(self, board, place, name), certificates)
        self.away = threading.Event()  # no connection comes through while it is set
        self.refuses: int | None = None  # a status for everybody, while it is set
        self.done: list[tuple[str, str]] = []  # method and path of what was done, in order
        self._upstream = urlsplit(upstream)
        self._trusted = trusted

    def connect(self) -> HTTPConnection:
        """A connection to the server behind it."""
        if self._trusted:
            return HTTPSConnection(self._upstream.netloc, context=self._trusted, timeout=60)
        return HTTPConnection(self._upstream.netloc, timeout=60)

    def wait_for_hang_up(self, client: socket.socket) -> None:
        """Say nothing until whoever asked has given up."""
        while not self.closing.is_set():
            if select.select([client], [], [], 0.05)[0]:
                return


def _handler(
    proxy: Proxy,
    board: Switchboard,
    place: str,
    name: Callable[[str, str, Any], tuple[str, str] | None],
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        upstream: HTTPConnection | None = None

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            named = name(self.command, self.path, self.headers)
            if proxy.away.is_set():
                self.close_connection = True
                return
            if proxy.refuses and named:
                self._answer(proxy.refuses, _refusal(place, proxy.refuses))
                return
            harm = board.meet(named[0], place, named[1]) if named else NOTHING
            harm.before()
            if harm.silent:
                proxy.wait_for_hang_up(self.connection)
                self.close_connection = True
            elif harm.status:
                self._answer(harm.status, _refusal(place, harm.status))
            else:
                status, headers, content = self._forward(body)
                if status < 300:
                    proxy.done += _done(self.command, self.path, body)
                harm.after()
                if harm.lost:
                    self.close_connection = True
                else:
                    self._answer(status, content, headers)

        do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

        def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            sent = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
            for fresh in (False, True):
                if fresh or self.upstream is None:
                    self.upstream = proxy.connect()
                try:
                    self.upstream.request(self.command, self.path, body or None, sent)
                    answer = self.upstream.getresponse()
                    return answer.status, answer.getheaders(), answer.read()
                except (HTTPException, OSError):
                    if fresh:
                        raise
            raise AssertionError

        def _answer(
            self, status: int, content: bytes, headers: list[tuple[str, str]] | None = None
        ) -> None:
            self.send_response_only(status)
            length = str(len(content))
            for key, value in headers or []:
                if key.lower() == "content-length" and self.command == "HEAD":
                    length = value
                elif key.lower() not in _HOP:
                    self.send_header(key, value)
            if status not in (204, 304):
                self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def finish(self) -> None:
            with contextlib.suppress(OSError):
                super().finish()
            if self.upstream:
                self.upstream.close()

        def log_message(self, format: str, *arguments: Any) -> None: ...

    return Handler


def _done(method: str, path: str, body: bytes) -> Iterator[tuple[str, str]]:
    """One act for each object, where S3 deletes several with one request."""
    bucket, _, query = path.partition("?")
    if method == "POST" and query == "delete":
        for key in re.findall(rb"<Key>([^<]*)</Key>", body):
            yield "DELETE", f"{bucket}/{key.decode()}"
    else:
        yield method, path


def _refusal(place: str, status: int) -> bytes:
    if place == "provider":
        return json.dumps({"errors": [{"reason": f"Trouble {status}"}]}).encode()
    code = {403: "AccessDenied", 429: "SlowDown"}.get(status, "InternalError")
    return f"<Error><Code>{code}</Code><Message>Trouble</Message></Error>".encode()


class Marks(Served):
    """Where a controller reports what is no request, and hears whether it may do it."""

    def __init__(self, board: Switchboard) -> None:
        class Handler(StreamRequestHandler):
            def handle(self) -> None:
                harm = NOTHING
                for line in self.rfile:
                    place, what, when = json.loads(line)
                    if when == "before":
                        harm = board.meet("controller", place, what)
                        harm.before()
                    else:
                        harm.after()
                    self.wfile.write(b"raise\n" if harm.raises and when == "before" else b"go\n")

        super().__init__(Handler)


def plain(text: str) -> str:
    """A name without what differs from run to run: ids, hashes, addresses, times."""
    text = re.sub(r"voc_train_box-\S+", "WHEEL", unquote(text))
    text = re.sub(r"\d{6}-[0-9a-z]{5}", "RUN", text)
    text = re.sub(r"\b[0-9a-f]{12,}\b", "HASH", text)
    text = re.sub(r"\b127(\.\d+){3}(:\d+)?", "HOST", text)
    return re.sub(r"(?<=/)\d{2,10}(?=/|$)", "ID", text)
