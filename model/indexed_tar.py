"""A tar and its index: photos are read by offset, and nothing is ever unpacked.

The idea serves twice: the archive a user brings is indexed as it is, and the shards we write are
plain tars with the same kind of index. An index is JSON Lines, one
`{"name": …, "offset": …, "size": …}` a member, offset and size in bytes.
"""

import hashlib
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from model.errors import InputError
from model.tar_headers import Member, index_tar, plain_name

__all__ = ["Member", "TarReader", "TarWriter", "index_tar", "read_index", "write_index"]

_BLOCK = 512


def write_index(path: Path, members: Iterable[Member]) -> int:
    """Write an index and return the number of members."""
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for member in members:
            file.write(json.dumps(member._asdict(), ensure_ascii=False) + "\n")
            count += 1
    return count


def read_index(path: Path) -> Iterator[Member]:
    """Yield the members of an index; InputError names the first line that is not one."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                entry = json.loads(line)
                yield Member(str(entry["name"]), int(entry["offset"]), int(entry["size"]))
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{path} is damaged at line {number}; delete it and build it again."
                ) from error


class TarReader:
    """Reads members of a tar by offset; safe with threads and forks, pickled as its path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}.") from error

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`; InputError when the file does not hold them."""
        try:
            # pread shares no position, so neither threads nor forked workers disturb each other.
            data = os.pread(self._fd, size, offset)
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror}.") from error
        if len(data) != size:
            raise InputError(
                f"{self.path} does not reach to byte {offset + size}, as its index says; it was "
                "cut short, so fetch or build it again."
            )
        return data

    def close(self) -> None:
        """Give the file back; a second time is harmless."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __reduce__(self) -> tuple[type["TarReader"], tuple[Path]]:
        return TarReader, (self.path,)


class TarWriter:
    """Writes a plain tar whose bytes depend on names and data alone.

    After closing, `size` (bytes) and `sha256` (lower-case hex) describe the whole file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.sha256 = ""
        self._hash = hashlib.sha256()
        self._names: set[str] = set()
        self._file = path.open("wb")

    def add(self, name: str, data: bytes) -> Member:
        """Append one file and return where it lies; ValueError unless the name is plain and new."""
        if not name or name != plain_name(name) or name in self._names:
            raise ValueError(f"{name!r} is not a plain member name, or is already in {self.path}")
        self._names.add(name)
        header = tarfile.TarInfo(name)  # as it comes: mode 0644, owner 0, time 0
        header.size = len(data)
        self._write(header.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict"))
        member = Member(name, self.size, len(data))
        self._write(data)
        self._write(bytes(-len(data) % _BLOCK))
        return member

    def close(self) -> None:
        """Write the end mark and close the file; a second time is harmless."""
        if not self.sha256:
            self._write(bytes(2 * _BLOCK))
            self._file.close()
            self.sha256 = self._hash.hexdigest()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)
