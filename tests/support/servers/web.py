"""A server in a thread, on loopback, for as long as a block lasts."""

import ssl
import sys
import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from socketserver import BaseRequestHandler
from types import TracebackType
from typing import Any, Self

from servers.certificates import Certificates


class Served:
    """Answers by `handler` between entering and leaving; by TLS, if it has `certificates`.

    host: address and port. closing: set when it is left, for whoever keeps a client waiting.
    """

    def __init__(
        self,
        handler: Callable[..., BaseRequestHandler],
        certificates: Certificates | None = None,
    ) -> None:
        self.closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), handler)
        self._scheme = "http"
        if certificates:
            self._scheme = "https"
            self._server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._server.context.load_cert_chain(certificates.certificate, certificates.key)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def port(self) -> int:
        return int(self._server.server_port)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self._scheme}://{self.host}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    context: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.context is None:
            super().finish_request(request, client_address)
            return
        # In the thread of the connection: a handshake must keep no other one waiting.
        with self.context.wrap_socket(request, server_side=True) as encrypted:
            super().finish_request(encrypted, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave, or are killed, break their lines; anything else is told."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)
