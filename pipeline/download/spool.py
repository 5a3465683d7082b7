"""The spool, a folder where archives land: each file is hashed as it grows, and within limits."""

import errno
import gzip
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

from model.errors import InputError
from pipeline.download.checksums import Checksums
from pipeline.download.url import ArchiveUrl

CHUNK = 1 << 20  # bytes; what is held in memory of an archive at any time, a few times over
_LOOK_EVERY = 64 << 20  # bytes written between two looks at the free space


class Room(NamedTuple):
    """How large an archive may be, unpacked too, and how much disk stays free (bytes)."""

    max_bytes: int
    reserve_bytes: int = 256_000_000


class NoRoom(InputError):
    """The spool cannot take the archive; what has arrived is kept, and can be gone on from."""


class SpoolFile:
    """A file in the spool that grows: `with SpoolFile(...) as file`, then `file.write(chunk)`."""

    def __init__(self, path: Path, url: ArchiveUrl, room: Room) -> None:
        self.path = path
        self.checksums = Checksums(url)
        self.url, self._room = url, room
        self._unlooked = 0

    def __enter__(self) -> Self:
        with writable(self.path):
            self._file = self.path.open("r+b" if self.path.exists() else "x+b")
        return self

    def __exit__(self, *_: object) -> None:
        with writable(self.path):
            self._file.close()
            if self.path.exists() and self.path.stat().st_size == 0:
                self.path.unlink()  # nothing came, or nothing that is worth keeping

    @property
    def size(self) -> int:
        """Bytes that are there and hashed."""
        return self.checksums.size

    def start_at(self, offset: int, total: int | None) -> None:
        """Keep the first `offset` bytes and check that `total` bytes will fit."""
        if total is not None:
            self._check_size(total)
            self._check_room(total - offset)
        if offset != self.checksums.size:
            self.checksums = Checksums(self.url)
            self._file.seek(0)
            while chunk := self._file.read(min(CHUNK, offset - self.checksums.size)):
                self.checksums.update(chunk)
        with writable(self.path):
            self._file.truncate(offset)
            self._file.seek(offset)

    def write(self, chunk: bytes) -> None:
        """Append bytes, so that they survive the end of this process."""
        self._check_size(self.checksums.size + len(chunk))
        self._unlooked += len(chunk)
        if self._unlooked >= _LOOK_EVERY:
            self._unlooked = 0
            self._check_room(len(chunk))
        with writable(self.path):
            self._file.write(chunk)
            self._file.flush()
        self.checksums.update(chunk)

    def _check_size(self, size: int) -> None:
        limit = self._room.max_bytes
        if size > limit:
            self._file.truncate(0)  # it will not be gone on from
            raise InputError(
                f"{self.url.called} is larger than {limit:,} bytes, the limit for an archive; "
                "raise it with --limit archive_gb=… if that is what you want."
            )

    def _check_room(self, needed: int) -> None:
        free = shutil.disk_usage(self.path.parent).free
        if free < needed + self._room.reserve_bytes:
            raise NoRoom(
                f"{self.url.called} needs {needed:,} bytes more in {self.path.parent}, where "
                f"{free:,} are free and {self._room.reserve_bytes:,} stay reserved; free some "
                "space or choose another folder."
            )


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Turn a failed write in the spool into `NoRoom`."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        cure = "free some space" if full else "check its rights"
        raise NoRoom(
            f"{path.parent} cannot be written ({error.strerror}); {cure} or choose another folder."
        ) from error


def gunzip(source: Path, target: SpoolFile) -> None:
    """Unpack all members of a gzip file (RFC 1952) into an open `target`, in flat memory.

    Raises:
        InputError: the file is damaged or cut short, or unpacks to more than the limit.
    """
    called = target.url.called
    try:
        with gzip.open(source) as file:
            while chunk := file.read(CHUNK):
                target.write(chunk)
    except EOFError as error:
        raise InputError(f"{called} is a truncated gzip file; download it again.") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{called} is a damaged gzip file; download it again.") from error
