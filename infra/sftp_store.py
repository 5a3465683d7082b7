"""A store in a folder on a machine that is reached by SSH: a Volume that is mounted there.

fsspec has a file system for SFTP, too, but it accepts any host key.
"""

import os.path
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from paramiko import SFTPAttributes

from infra.failure import Cause, Failure
from infra.ssh import CommandFailed, Connection, Lost
from infra.ssh.line import Line
from infra.ssh.login import NotYet
from infra.store_errors import explained
from infra.stores import Entry, Store

# Files on their way: ours, and those of an agent on the machine, whose store is the same folder.
_UNFINISHED = re.compile(r"^\.part-|#\d+$")


class SFTPStore(Store):
    """Objects below `folder`, an absolute path on the machine that `connect` opens.

    A connection that broke is opened again by the next call; the call that noticed raises
    Failure(AGENT_LOST): such a store is away because its machine is.
    """

    def __init__(self, connect: Callable[[], Connection], folder: str) -> None:
        self._line = Line(connect)
        self._root = folder.rstrip("/")
        self._folder = None
        self._bucket = None
        with self._line.connection() as connection:
            at = connection.endpoint
        port = "" if at.port == 22 else f":{at.port}"
        self.url = f"sftp://{at.host}{port}{self._root}"

    def close(self) -> None:
        """Hang up."""
        self._line.close()

    def put(self, key: str, data: bytes) -> None:
        """Write one object, whole or not at all."""
        with explained(self.url, key), self._connected() as connection:
            connection.put(data, self._path(key), 0o644)

    def put_file(self, key: str, path: Path, *, move: bool = False) -> None:
        """Write a file's content as one object, streaming.

        A `path` that is not there raises FileNotFoundError.
        """
        path.stat()
        with explained(self.url, key), self._connected() as connection:
            connection.put(path, self._path(key), 0o644, timeout=_patience(path.stat().st_size))
        if move:
            path.unlink()

    def get(self, key: str) -> bytes | None:
        """Read one object, or None when there is none."""
        with explained(self.url, key), self._connected() as connection:
            return connection.get(self._path(key))

    def _download(self, key: str, path: Path) -> None:
        with self._connected() as connection:
            connection.get_file(self._path(key), path)

    def size(self, key: str) -> int | None:
        """Size of one object in bytes, or None when there is none."""
        with explained(self.url, key), self._connected() as connection, connection.sftp() as sftp:
            try:
                return sftp.stat(self._path(key)).st_size
            except FileNotFoundError:
                return None

    def list(self, prefix: str) -> Iterator[Entry]:
        """All objects whose key starts with the folder `prefix`, in order of their keys."""
        return iter(sorted(self._below(prefix.strip("/")), key=lambda entry: entry.key))

    def folders(self, prefix: str) -> tuple[str, ...]:
        """Names directly under the folder `prefix`, of folders that hold an object."""
        within = prefix.strip("/")
        names = (name for name, seen in self._names(within) if seen is None)
        return tuple(sorted(name for name in names if any(self._below(_join(within, name)))))

    def delete(self, key: str) -> None:
        """Delete one object; absent already is a success."""
        with explained(self.url, key), self._connected() as connection, connection.sftp() as sftp:
            try:
                sftp.remove(self._path(key))
            except FileNotFoundError:
                return

    def _below(self, folder: str) -> Iterator[Entry]:
        for name, seen in self._names(folder):
            key = _join(folder, name)
            if seen is None:
                yield from self._below(key)
            else:
                modified = datetime.fromtimestamp(seen.st_mtime or 0, UTC)
                yield Entry(key, seen.st_size or 0, modified)

    def _names(self, folder: str) -> Iterator[tuple[str, SFTPAttributes | None]]:
        """Names in a folder with what is said of them, None for a folder; nothing for no folder."""
        with explained(self.url, folder), self._connected() as connection:
            try:
                with connection.sftp() as sftp:
                    found = sftp.listdir_attr(self._path(folder))
            except FileNotFoundError:
                return
        for one in found:
            if stat.S_ISDIR(one.st_mode or 0):
                yield one.filename, None
            elif not _UNFINISHED.search(one.filename):
                yield one.filename, one

    def _path(self, key: str) -> str:
        path = os.path.normpath(f"{self._root}/{key}")
        if not f"{path}/".startswith(f"{self._root}/"):
            raise Failure(Cause.STORE, f"{key!r} is not the key of an object.")
        return path

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        try:
            with self._line.connection() as connection:
                yield connection
        except CommandFailed as failure:  # what the file system there says
            raise OSError(failure.said.strip()) from failure
        except (Lost, NotYet) as failure:
            raise Failure(
                Cause.AGENT_LOST,
                f"The machine with the store {self.url} does not answer: {failure}",
            ) from None


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _patience(size: int) -> float:
    """Seconds that sending so many bytes may take, over a slow line."""
    return 120 + size / 250_000
