"""A service that takes messages, on loopback; Apprise reaches it by `json://`."""

import json
from http.server import BaseHTTPRequestHandler
from typing import Any

from servers.web import Served

CANARY = "canary-hook-key"  # in the URL, as secrets are in those of real services


class Receiver(Served):
    """Keeps what it gets between `with Receiver() as receiver` and the end of the block.

    url: for VOC_TRAIN_NOTIFY. messages: title, message and type of each. `status` is what it
    answers, and while `mute` is set, nothing.
    """

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.status = 200
        self.mute = False
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if receiver.mute:
                    receiver.closing.wait()
                    return
                receiver.messages.append(json.loads(body))
                self.send_response(receiver.status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing."""

        super().__init__(Handler)

    @property
    def url(self) -> str:
        return f"json://{self.host}/{CANARY}"

    @property
    def titles(self) -> list[str]:
        """Of all messages, in their order."""
        return [message["title"] for message in self.messages]
