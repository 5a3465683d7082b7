"""Tars for tests, whole ones and their blocks, which may claim what they like."""

import io
import tarfile
from pathlib import Path

END = bytes(1024)  # a tar's end mark

FILES = {
    "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt": b"2007_000032\n",
    "VOCdevkit/VOC2012/JPEGImages/2007_000032.jpg": b"\xff\xd8" + bytes(1500),
    "VOCdevkit/VOC2012/JPEGImages/empty.jpg": b"",
    "exactly-a-block": b"x" * 512,
}


def pack(
    path: Path, files: dict[str, bytes], *, format: int = tarfile.GNU_FORMAT, folders: bool = False
) -> Path:
    """Write `packed` to a file."""
    path.write_bytes(packed(files, format=format, folders=folders))
    return path


def packed(
    files: dict[str, bytes], *, format: int = tarfile.GNU_FORMAT, folders: bool = False
) -> bytes:
    """A tar of `files`, name to data; with `folders` it has entries for them too."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, data in files.items():
            if folders:
                tar.addfile(special("/".join(name.split("/")[:-1]) or ".", tarfile.DIRTYPE))
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def special(name: str, type: bytes, target: str = "") -> tarfile.TarInfo:
    """An entry that is no plain file, such as a link to `target`."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = type, target
    return entry


def block(name: str, size: int = 0, type: bytes = tarfile.REGTYPE) -> bytes:
    """A header on its own, which may claim what it likes."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.type = size, type
    return entry.tobuf(tarfile.GNU_FORMAT)


def padded(data: bytes) -> bytes:
    """A member's data, filled up to whole blocks."""
    return data + bytes(-len(data) % 512)


def pax(records: bytes, type: bytes = tarfile.XHDTYPE) -> bytes:
    """An extended header with these records."""
    return block("pax", len(records), type) + padded(records)
