"""Walking the headers of a tar that may be hostile: where its files lie, without reading them.

Formats: V7, USTAR, GNU, and PAX as in POSIX.1-2017, "pax Interchange Format". The standard
library decodes a header block; the walk is ours, because `tarfile` reads extended headers of any
length into memory and takes an archive that lost its last members for a whole one.
"""

import hashlib
import os
import tarfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from model.errors import InputError

_BLOCK = 512
_UNSEEN = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}  # Unicode's control, format, line, ...
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_LONG_NAME = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_MAX_EXTENDED_HEADER = 1 << 20  # bytes; besides one block, the only part of a tar held in memory
_MAX_NAME = 4096  # characters, as PATH_MAX
_MAX_MEMBERS = 2_000_000  # what was seen is remembered, about 100 bytes a member
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


class Member(NamedTuple):
    """One file in a tar: its normalised name, and where its data lies (bytes)."""

    name: str
    offset: int
    size: int


def index_tar(path: Path, *, called: str = "", require_end: bool = True) -> Iterator[Member]:
    """Yield the regular files of an uncompressed tar, in the archive's order.

    Only headers are read, and memory stays flat. Passed over are folders, PAX global headers that
    say nothing about members (git writes one) and AppleDouble files (`._photo.jpg`, what macOS
    packs beside every file). `./` and doubled slashes are taken out of names.

    Args:
        called: the archive's name in messages; its path if not given.
        require_end: refuse a tar without an end mark, since nothing else shows that whole members
            are missing. Pass False when a checksum has proved the file complete.

    Raises:
        InputError: not a tar, truncated or damaged; or a member that is no plain file, would lie
            outside the folder it is unpacked in, is there twice, or makes absurd claims.
    """
    called = called or str(path)
    try:
        with path.open("rb", buffering=0) as file:
            yield from _Walk(file.fileno(), called, require_end).members()
    except OSError as error:
        raise InputError(f"{called} cannot be read: {error.strerror}.") from error


def plain_name(name: str) -> str:
    """Return a member's name without `.` and empty parts; ValueError says what is wrong with it."""
    if len(name) > _MAX_NAME:
        raise ValueError(f"is longer than {_MAX_NAME} characters")
    unusual = "" if name.isascii() and name.isprintable() else name  # most names are not
    if any("\ud800" <= character <= "\udfff" for character in unusual):
        raise ValueError("is not UTF-8")
    # Such a name would be shown on a terminal. Spaces of every kind are harmless there.
    if "\\" in name or any(unicodedata.category(letter) in _UNSEEN for letter in unusual):
        raise ValueError("contains a backslash, or an invisible or control character")
    if name.startswith("/") or name[1:2] == ":":
        raise ValueError("is an absolute path")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError("climbs out of its folder by '..'")
    return "/".join(parts)


class _Walk:
    """One pass over the headers of an open tar."""

    def __init__(self, fd: int, called: str, require_end: bool) -> None:
        self._fd, self._called, self._require_end = fd, called, require_end
        self._end = os.fstat(fd).st_size
        self._position = 0
        self._seen: set[bytes] = set()

    def members(self) -> Iterator[Member]:
        long_name = ""
        pax: dict[str, str] = {}
        while (header := self._next_header()) is not None:
            if header.type in _PAX:
                pax = self._pax_records(header)
            elif header.type == tarfile.XGLTYPE:
                if {"path", "size"} & self._pax_records(header).keys():
                    self._fail("renames or resizes all its members at once; pack it again")
            elif header.type in _LONG_NAME:
                data = self._extended(header)
                # The target of a link needs no decoding: the link that follows is refused.
                if header.type == tarfile.GNUTYPE_LONGNAME:
                    long_name = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
            else:
                header.name = pax.get("path") or long_name or header.name
                if "size" in pax:
                    header.size = self._stated_size(pax["size"], header.name)
                if (member := self._member(header)) is not None:
                    yield member
                long_name, pax = "", {}

    def _next_header(self) -> tarfile.TarInfo | None:
        """Read the header at the current position and step past it; None at the end mark."""
        block = os.pread(self._fd, _BLOCK, self._position)
        if block == bytes(_BLOCK):
            return None
        if self._position > 0 and len(block) < _BLOCK:
            if block or self._require_end:
                self._truncated("before its end mark")
            return None
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as error:
            if self._position == 0:
                self._fail("is not a tar archive; give an uncompressed or gzip'd tar", error)
            self._fail(f"is damaged at byte {self._position}; download or pack it again", error)
        self._position += _BLOCK
        if header.size < 0:
            self._fail(f"states a negative size for {_short(header.name)}; pack it again")
        return header

    def _member(self, header: tarfile.TarInfo) -> Member | None:
        shown = _short(header.name)
        try:
            name = plain_name(header.name)
        except ValueError as error:
            self._fail(f"holds {shown}, a name that {error}; pack it again without it", error)
        if header.type == tarfile.DIRTYPE:
            return None  # its size, if any, is a hint to the file system: no data follows
        if header.type not in _REGULAR:
            kind = _KINDS.get(header.type, f"of the unknown type {header.type!r}")
            self._fail(f"holds {shown}, {kind}; pack it again with plain files and folders only")
        offset = self._position
        self._skip_data(header)
        digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
        if not name or digest in self._seen:
            reason = "twice" if name else "as a file"
            self._fail(f"holds {shown} {reason}; pack it again with every file once, by its name")
        if len(self._seen) >= _MAX_MEMBERS:
            self._fail(f"holds more than {_MAX_MEMBERS:,} files; split it into several archives")
        self._seen.add(digest)
        if name.rpartition("/")[2].startswith("._"):
            return None
        return Member(name, offset, header.size)

    def _skip_data(self, header: tarfile.TarInfo) -> None:
        if header.size > self._end - self._position:
            self._truncated(f"inside {_short(header.name)}")
        self._position += -(-header.size // _BLOCK) * _BLOCK

    def _extended(self, header: tarfile.TarInfo) -> bytes:
        """Read the data of a header that describes the next member, or all of them."""
        if header.size > _MAX_EXTENDED_HEADER:
            self._fail(
                f"has an extended header of {header.size:,} bytes at byte "
                f"{self._position - _BLOCK}; pack it again without extended attributes"
            )
        start = self._position
        self._skip_data(header)
        return os.pread(self._fd, header.size, start)

    def _pax_records(self, header: tarfile.TarInfo) -> dict[str, str]:
        """Parse records of the form `LENGTH KEY=VALUE\\n`, LENGTH counting the whole record."""
        data = self._extended(header)
        records: dict[str, str] = {}
        position = 0
        while position < len(data) and data[position]:  # some writers pad with zeros
            space = data.find(b" ", position, position + 10)
            length = data[position : max(space, position)]
            end = position + int(length) if length.isdigit() else 0
            key, equals, value = data[space + 1 : end].partition(b"=")
            if not equals or not value.endswith(b"\n") or end > len(data):
                self._fail(f"has a damaged header before byte {self._position}; pack it again")
            if key.startswith(b"GNU.sparse."):
                self._fail("stores members as sparse files; pack it again without --sparse")
            records[key.decode("utf-8", "replace")] = value[:-1].decode("utf-8", "surrogateescape")
            position = end
        return records

    def _stated_size(self, text: str, name: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            self._fail(f"states the size {_short(text)} for {_short(name)}; pack it again")
        return int(text)

    def _truncated(self, where: str) -> NoReturn:
        self._fail(f"is truncated: it ends at byte {self._end}, {where}; download or pack it again")

    def _fail(self, complaint: str, cause: Exception | None = None) -> NoReturn:
        raise InputError(f"{self._called} {complaint}.") from cause


def _short(text: str) -> str:
    return repr(text if len(text) <= 100 else text[:100] + "…")
