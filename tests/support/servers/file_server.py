"""A file server that can be told to misbehave: a real HTTP server in a thread, on loopback.

It answers ranges and conditional requests as RFC 9110 has them, so an S3 client can read from it
too. What it counts shows what a client really fetched.
"""

import re
from base64 import b64encode
from collections.abc import Callable
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from typing import NamedTuple

from servers.certificates import Certificates
from servers.web import Served

_PIECE = 64 << 10  # bytes


class Request(NamedTuple):
    """One request: its method, the first byte it asked for, and the status it was answered with."""

    method: str
    start: int
    status: int


class FileServer(Served):
    """`with FileServer() as server`; put bytes into `files` by path, such as "/voc.tar".

    The switches may be changed between requests. `cuts`: after how many bytes of the body to
    break the connection, one number a request. `statuses`: answer with these first. `pause_at`:
    send so many bytes of a body, and then nothing until the server ends. `password`: "user:word".
    `conditions`: whether If-None-Match and If-Range are understood.
    """

    def __init__(self, certificates: Certificates | None = None) -> None:
        super().__init__(type("Bound", (_Handler,), {"at": self}), certificates)
        self.files: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.bytes_served = 0
        self.ranges = True
        self.etags = True
        self.dates = True
        self.lengths = True
        self.weak = False
        self.conditions = True
        self.cuts: list[int] = []
        self.statuses: list[int] = []
        self.pause_at: int | None = None
        self.password: str | None = None
        self.redirects: dict[str, str] = {}
        self.after_request: Callable[[], object] = lambda: None


class _Handler(BaseHTTPRequestHandler):
    at: FileServer

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        content = self.at.files.get(path, b"")
        version = f"{hash(content) % (1 << 64):016x}"
        etag = f'"{version}"' if self.at.etags else ""
        etag = f"W/{etag}" if self.at.weak else etag
        # A date of its own for every content, as if each had been made on another day.
        date = formatdate(int(version[:7], 16), usegmt=True) if self.at.dates else ""
        start = self._start(etag, date)
        status = self._refusal(path, etag, date) or (200 if start is None else 206)
        if start is not None and status == 206 and start >= len(content):
            status = 416
        self.at.requests.append(Request(self.command, start or 0, status))
        self.send_response(status)
        body = content[start or 0 :] if status in (200, 206) else b""
        headers = {
            "ETag": etag,
            "Last-Modified": date,
            "Content-Length": str(len(body)) if self.at.lengths and status != 304 else "",
            "Location": self.at.redirects.get(path, ""),
            "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"
            if status == 206
            else "",
        }
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self._send(body)
        self.at.after_request()

    def _refusal(self, path: str, etag: str, date: str) -> int | None:
        if self.at.statuses:
            return self.at.statuses.pop(0)
        if path in self.at.redirects:
            return 302
        if path not in self.at.files:
            return 404
        if self.at.password is not None:
            expected = b64encode(self.at.password.encode()).decode()
            if self.headers.get("Authorization") != f"Basic {expected}":
                return 401
        held_etag, held_date = (
            self.headers.get("If-None-Match"),
            self.headers.get("If-Modified-Since"),
        )
        if not self.at.conditions:
            return None
        same = held_etag == etag if held_etag else bool(held_date) and held_date == date
        return 304 if same else None

    def _start(self, etag: str, date: str) -> int | None:
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not wanted or not self.at.ranges:
            return None
        condition = self.headers.get("If-Range")
        met = not self.at.conditions or condition in (None, etag, date)
        return int(wanted[1]) if met else None

    def _send(self, body: bytes) -> None:
        cut = self.at.cuts.pop(0) if self.at.cuts else len(body)
        for position in range(0, min(cut, len(body)), _PIECE):
            if self.at.pause_at is not None and position >= self.at.pause_at:
                self.at.closing.wait()
                return
            piece = body[position : min(position + _PIECE, cut)]
            self.at.bytes_served += len(piece)  # before whoever reads it can look
            try:
                self.wfile.write(piece)
            except OSError:  # the client left
                self.at.bytes_served -= len(piece)
                return

    def log_message(self, format: str, *args: object) -> None:
        pass
