"""A run's log in the store: immutable pieces `log/<offset>.txt`, named by their first byte."""

from pathlib import Path, PurePosixPath

from infra.protocol import run_key
from infra.stores import Store


class LogWriter:
    """Sends what a growing file has got since the last time, as a piece of its own."""

    def __init__(self, store: Store, run_id: str, path: Path) -> None:
        self._store = store
        self._folder = run_key(run_id, "log")
        self._path = path
        self._begins = 0  # where this file begins in the run's log, bytes
        self._sent = 0

    def go_on(self) -> None:
        """Begin after what an earlier agent of the same run had sent."""
        for piece in self._store.list(self._folder):
            self._begins = int(PurePosixPath(piece.key).stem) + piece.size

    def send(self) -> None:
        """Send what is new. Raises Failure(STORE); call it again."""
        if not self._path.exists():
            return
        with self._path.open("rb") as log:
            log.seek(self._sent)
            piece = log.read()
        if piece:
            self._store.put(f"{self._folder}/{self._begins + self._sent:012d}.txt", piece)
            self._sent += len(piece)


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
