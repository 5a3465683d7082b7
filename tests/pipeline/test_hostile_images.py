"""PNGs made to trip over: harmless, or refused by the name of the file."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from devkit import HEIGHT, WIDTH, encoded, jpeg, mask_of, palette_png
from model.errors import InputError
from model.images import decode_photo
from pipeline.masks import read_mask, read_photo

MANY = 64e6


def with_chunk(png: bytes, kind: bytes, body: bytes, at: int = 33) -> bytes:
    """A PNG with one chunk more, by default behind its first one, which is its header."""
    chunk = kind + body
    packed = struct.pack(">I", len(body)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return png[:at] + packed + png[at:]


PNG = encoded(Image.open(io.BytesIO(jpeg("a photo"))), "PNG")
IEND = -12  # where a PNG's last chunk begins, from its end


@pytest.mark.parametrize("at", [33, IEND])
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (b"eXIf", b"GARBAGEGARBAGE"),
        (b"eXIf", b"\0"),
        (b"tEXt", b"Raw profile type exif\0\nexif\n    4\nzzzz"),
        (b"iTXt", b"exif\0\0\0\0\0x"),
    ],
)
def test_exif_that_pillow_cannot_read_counts_as_none(kind: bytes, body: bytes, at: int) -> None:
    data = with_chunk(PNG, kind, body, at)
    returned = decode_photo(read_photo(data, (HEIGHT, WIDTH), "a.png", MANY), "a.png")
    assert returned.tolist() == np.asarray(Image.open(io.BytesIO(PNG))).tolist()


def test_transparency_without_a_palette_is_ignored() -> None:
    """Pillow fails at it only when the colours are asked for."""
    palette = palette_png(mask_of())
    before, after = palette.index(b"PLTE") - 4, palette.index(b"IDAT") - 4
    data = with_chunk(palette[:before] + palette[after:], b"tRNS", b"\0")
    assert decode_photo(read_photo(data, (HEIGHT, WIDTH), "a.png", MANY), "a.png").any() == 0


@pytest.mark.parametrize(
    ("kind", "body", "at"), [(b"tEXt", b"Comment\0abcdefgh", 8), (b"iCCP", b"", IEND)]
)
def test_a_png_in_disorder_is_refused_by_its_name(kind: bytes, body: bytes, at: int) -> None:
    """A text before the header has no bits of a sample where the header has them."""
    grey = encoded(Image.fromarray(mask_of()), "PNG")
    with pytest.raises(InputError, match=r"^m.png is damaged or not one of .*; replace it"):
        read_mask(with_chunk(grey, kind, body, at), 21, "m.png", MANY)
    with pytest.raises(InputError, match=r"^a.png is damaged or not one of .*; replace it"):
        read_photo(with_chunk(PNG, kind, body, at), (HEIGHT, WIDTH), "a.png", MANY)


def test_nothing_that_pillow_warns_of_reaches_the_terminal() -> None:
    exif = b"MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x03\0\0\0\x01" * 3
    code = (
        "import sys; from pipeline.masks import read_photo; "
        f"read_photo(sys.stdin.buffer.read(), ({HEIGHT}, {WIDTH}), 'a.png', 1e6); print('read')"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        input=with_chunk(PNG, b"eXIf", exif),
        capture_output=True,
        check=True,
    )
    assert (said.stdout.split(), said.stderr) == ([b"read"], b"")
