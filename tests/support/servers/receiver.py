"""A service that takes messages, on loopback; Apprise reaches it by `json://`."""

import json
import threading
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any, Self

from servers.web import serving

CANARY = "canary-hook-key"  # in the URL, as secrets are in those of real services


class Receiver:
    """Keeps what it gets between `with Receiver() as receiver` and the end of the block.

    url: for VOC_TRAIN_NOTIFY. messages: title, message and type of each. `status` is what it
    answers, and while `mute` is set, nothing.
    """

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.status = 200
        self.mute = False
        self._ended = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if receiver.mute:
                    receiver._ended.wait()
                    return
                receiver.messages.append(json.loads(body))
                self.send_response(receiver.status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._serving = serving(Handler)

    def __enter__(self) -> Self:
        self.url = f"json://{self._serving.__enter__()}/{CANARY}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._serving.__exit__(kind, error, traceback)

    @property
    def titles(self) -> list[str]:
        """Of all messages, in their order."""
        return [message["title"] for message in self.messages]
