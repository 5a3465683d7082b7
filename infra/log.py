"""A run's log in the store: immutable pieces `log/<offset>.txt`, named by their first byte."""

import contextlib
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ValidationError

from infra.durable import write_durably
from infra.protocol import run_key
from infra.stores import Entry, Store

_AT_ONCE = 8 << 20  # bytes: what was said in a long outage is more than one request should have


class _Position(BaseModel):
    begins: int  # where the file begins in the run's log, bytes
    sent: int  # how much of the file is in the store, bytes


class LogWriter:
    """Sends what a growing file has got since the last time, as a piece of its own.

    Beside the file a note says how far it was sent, so that an agent that is started again on the
    same disk sends what the one before it could not.
    """

    def __init__(self, store: Store, run_id: str, path: Path) -> None:
        self._store = store
        self._folder = run_key(run_id, "log")
        self._path = path
        self._note = path.with_suffix(".sent")
        self._at = _Position(begins=0, sent=0)

    def go_on(self) -> None:
        """Begin after what earlier agents of the same run had sent, on a line of its own.

        What the store lost of the log's end, and has not got of the file, is sent again.
        """
        pieces = list(self._store.list(self._folder))
        end = _offset(pieces[-1]) + pieces[-1].size if pieces else 0
        size = self._size()
        noted = self._noted()
        # Never more than is here or there: a power cut takes the file's end, a fault the store's.
        sent = max(0, min(noted.sent, size, end - noted.begins))
        for piece in pieces:  # that were sent, before this could be noted
            if _offset(piece) == noted.begins + sent and sent < size:
                said = self._store.get(piece.key)
                sent += piece.size if said == self._said(sent, piece.size) else 0
        self._now_at(end - sent, sent)
        last = self._said(size - 1, 1) if size > sent else self._last_byte(pieces)
        if last not in (b"", b"\n"):  # whoever wrote it was cut off
            with self._path.open("ab") as log:
                log.write(b"\n")

    def send(self, *, last: bool = False) -> None:
        """Send what is new; with the `last`, what the store lost of it. Raises Failure(STORE)."""
        for _ in range(self._at.sent, self._size(), _AT_ONCE):  # no more, should it never rest
            piece = self._said(self._at.sent, _AT_ONCE)
            at = self._at.begins + self._at.sent
            self._store.put(f"{self._folder}/{at:012d}.txt", piece)
            self._now_at(self._at.begins, self._at.sent + len(piece))
        if last:
            self._mend()

    def _mend(self) -> None:
        """Send again the pieces of this file that do not reach as far as they did."""
        end = self._at.begins + self._at.sent
        pieces = list(self._store.list(self._folder))
        for piece, after in zip(pieces, [*map(_offset, pieces[1:]), end], strict=False):
            start = _offset(piece) - self._at.begins
            if start >= 0 and piece.size != after - _offset(piece):
                self._store.put(piece.key, self._said(start, after - _offset(piece)))

    def _now_at(self, begins: int, sent: int) -> None:
        self._at = _Position(begins=begins, sent=sent)
        with contextlib.suppress(OSError):  # a full disk: what the store has says it as well
            write_durably(self._note, self._at.model_dump_json())

    def _noted(self) -> _Position:
        try:
            return _Position.model_validate_json(self._note.read_bytes())
        except (OSError, ValidationError):
            return self._at

    def _size(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0

    def _said(self, start: int, size: int) -> bytes:
        try:
            with self._path.open("rb") as log:
                log.seek(start)
                return log.read(size)
        except FileNotFoundError:
            return b""

    def _last_byte(self, pieces: list[Entry]) -> bytes:
        return (self._store.get(pieces[-1].key) or b"")[-1:] if pieces else b""


def _offset(piece: Entry) -> int:
    return int(PurePosixPath(piece.key).stem)


class LogReader:
    """Reads the pieces of a run's log in order, each once; only those still to come, if asked."""

    def __init__(self, store: Store, run_id: str, *, from_now: bool = False) -> None:
        self._store = store
        self._folder = run_key(run_id, "log")
        self._seen = {entry.key for entry in store.list(self._folder)} if from_now else set()
        self._rest = b""

    def new_lines(self, *, last: bool) -> list[str]:
        """The whole lines that came since the last call; `last` counts an unfinished one too."""
        for entry in self._store.list(self._folder):
            if entry.key not in self._seen:
                self._rest += self._store.get(entry.key) or b""
                self._seen.add(entry.key)
        *lines, self._rest = self._rest.split(b"\n")
        if last and self._rest:
            lines.append(self._rest)
        return [line.decode(errors="replace") for line in lines]
