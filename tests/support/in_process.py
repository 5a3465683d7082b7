"""Requests to a web application in this process: the real client and the real answers, no socket.

It takes half the time of a server's, and the same course each time.
"""

import asyncio
from collections.abc import MutableMapping
from io import BytesIO
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
from requests.structures import CaseInsensitiveDict
from starlette.types import ASGIApp


class InProcess:
    """Where a requests adapter sends to; `close` it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._loop = asyncio.new_event_loop()

    def close(self) -> None:
        """Nothing can be sent any more."""
        self._loop.close()

    def send(self, request: requests.PreparedRequest) -> requests.Response:
        """What the application answers."""
        assert request.url
        assert request.method
        parts = urlsplit(request.url)
        body = request.body or b""
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": parts.scheme,
            "path": unquote(parts.path),
            "raw_path": parts.path.encode(),
            "root_path": "",
            "query_string": parts.query.encode(),
            "headers": [(k.lower().encode(), str(v).encode()) for k, v in request.headers.items()],
            "client": ("127.0.0.1", 1),
            "server": (parts.hostname, parts.port),
        }
        response = requests.Response()
        response.request, response.url = request, request.url
        content = BytesIO()

        async def receive() -> dict[str, Any]:
            raw = body.encode() if isinstance(body, str) else body
            return {"type": "http.request", "body": raw, "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                response.status_code = message["status"]
                pairs = [(k.decode(), v.decode()) for k, v in message["headers"]]
                response.headers = CaseInsensitiveDict(pairs)
            else:
                content.write(message.get("body", b""))

        self._loop.run_until_complete(self._app(scope, receive, send))
        content.seek(0)
        response.raw = content
        return response
