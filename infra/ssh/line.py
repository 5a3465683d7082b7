"""A line to a machine: one SSH connection, opened when it is needed and again when it broke."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from infra.ssh import Connection, Lost


class Line:
    """Keeps what `connect` opens for as long as it holds. Threads take turns."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._open: Connection | None = None
        self._turn = threading.RLock()

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """The connection. Raises what opening it raises; Lost once, then the next one is new."""
        with self._turn:
            if self._open is None:
                self._open = self._connect()
            try:
                yield self._open
            except Lost:
                self.close()
                raise

    def close(self) -> None:
        """Hang up; the next call opens it again."""
        with self._turn:
            if self._open is not None:
                self._open.close()
            self._open = None
