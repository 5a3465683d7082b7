"""An HTTP server on this computer that answers as it was told, and remembers what it was asked."""

import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from servers.certificates import Certificates
from servers.web import Served


@dataclass(frozen=True)
class Reply:
    """One answer. `cut` bytes of the body are announced and never sent; `silent` sends nothing."""

    status: int = 200
    body: Any = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    kind: str = "application/json"
    cut: int = 0
    silent: bool = False

    @classmethod
    def error(cls, status: int, reason: str, **headers: str) -> Self:
        """An error as Linode words it."""
        return cls(status, {"errors": [{"reason": reason}]}, headers)

    @classmethod
    def html(cls, status: int) -> Self:
        """An error of a gateway before Linode."""
        return cls(status, "<html><h1>Bad</h1></html>", kind="text/html")


@dataclass(frozen=True)
class Request:
    """What was asked."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any

    @property
    def filter(self) -> Any:
        return json.loads(self.headers.get("X-Filter", "null"))


class ScriptedServer(Served):
    """`replies[method, path]` are given in turn, the last one again and again."""

    def __init__(self, certificates: Certificates | None = None) -> None:
        super().__init__(self._handler(), certificates)
        self.replies: dict[tuple[str, str], list[Reply]] = {}
        self.requests: list[Request] = []

    @property
    def url(self) -> str:
        return f"{super().url}/v4"

    def on(self, method: str, path: str, *replies: Reply) -> None:
        self.replies[method, path] = list(replies)

    def asked(self, method: str, path: str) -> list[Request]:
        return [r for r in self.requests if (r.method, r.path) == (method, path)]

    def _reply_to(self, request: Request) -> Reply:
        self.requests.append(request)
        replies = self.replies.get((request.method, request.path))
        if not replies:
            return Reply.error(404, "Not found")
        return replies.pop(0) if len(replies) > 1 else replies[0]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do(self) -> None:
                url = urlsplit(self.path)
                sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                reply = server._reply_to(
                    Request(
                        method=self.command,
                        path=url.path.removeprefix("/v4"),
                        query={name: values[0] for name, values in parse_qs(url.query).items()},
                        headers=dict(self.headers),
                        body=json.loads(sent) if sent else None,
                    )
                )
                if reply.silent:
                    server.closing.wait(30)
                    return
                body = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
                data = body.encode()
                self.send_response(reply.status)
                self.send_header("Content-Type", reply.kind)
                self.send_header("Content-Length", str(len(data)))
                for name, value in reply.headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(data[: len(data) - reply.cut])

            do_GET = do_POST = do_DELETE = do_PUT = do  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:
                """Silent: the tests look at `requests`."""

        return Handler
