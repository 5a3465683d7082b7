"""Devkit archives for tests: any lists, any bytes, well made or not."""

import io
import struct
import tarfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infra.stores import Store
from model.manifest import Manifest
from model.palette import voc_palette
from pipeline.archive import Archive
from pipeline.layouts.layout import Layout
from pipeline.parameters import VOC_CLASSES
from pipeline.stages.build_dataset import build_dataset
from pipeline.stages.extract import extract
from pipeline.stages.separate import Separation, separate

Pixels = NDArray[np.uint8]
HEIGHT, WIDTH = 12, 16


def jpeg(
    seed: str = "", height: int = HEIGHT, width: int = WIDTH, mode: str = "RGB", **save: Any
) -> bytes:
    """A photo of noise, the same for the same seed, as JPEG bytes."""
    rng = np.random.default_rng(zlib.crc32(seed.encode()))
    picture = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).convert(mode)
    return encoded(picture, "JPEG", **save)


def mask_of(seed: str = "", height: int = HEIGHT, width: int = WIDTH) -> Pixels:
    """Class indices below 5 and void, uint8 [H, W], the same for the same seed."""
    rng = np.random.default_rng(zlib.crc32(seed.encode()))
    return rng.choice(np.array([0, 1, 2, 3, 4, 255], np.uint8), (height, width))


def palette_png(indices: Pixels) -> bytes:
    """Class indices as VOC stores them: a PNG with the VOC palette."""
    picture = Image.fromarray(indices)
    picture.putpalette(voc_palette().tobytes())
    return encoded(picture, "PNG")


def encoded(picture: Image.Image, kind: str, **save: Any) -> bytes:
    """A Pillow image as bytes of a format."""
    file = io.BytesIO()
    picture.save(file, kind, **save)
    return file.getvalue()


def raw_png(height: int, width: int, bits: int, data: bytes) -> bytes:
    """A grey PNG whose header says what it is told to; `data` is packed rows, filter bytes too."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def entry(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """A member for `extra`, with any field of its header set."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def devkit(
    path: Path,
    *,
    train: Sequence[str] = ("one", "two"),
    val: Sequence[str] = ("three",),
    test: Sequence[str] = (),
    unlisted: Sequence[str] = (),
    photos: Mapping[str, bytes | None] = {},
    masks: Mapping[str, bytes | None] = {},
    lists: Mapping[str, bytes | None] = {},
    extra: Iterable[tuple[tarfile.TarInfo, bytes]] = (),
    year: int = 2012,
) -> Path:
    """Write an archive in VOC's layout and return its path.

    Every id in a list, and in `unlisted`, gets a photo and a mask of its own, drawn from the id
    without its year: 000032 of 2007 and 2007_000032 of 2012 look the same. `photos`, `masks` and
    `lists` replace bytes, None leaves them out; a list without ids is left out too.
    """
    root = f"VOCdevkit/VOC{year}"
    files: dict[str, bytes | None] = {}
    for split, ids in {"train": train, "val": val, "test": test}.items():
        drawn = "".join(f"{name}\n" for name in ids).encode() or None
        files[f"ImageSets/Segmentation/{split}.txt"] = lists.get(split, drawn)
    for name in dict.fromkeys((*train, *val, *test, *unlisted)):
        seed = name.removeprefix("2007_")
        files[f"JPEGImages/{name}.jpg"] = photos.get(name, jpeg(seed))
        files[f"SegmentationClass/{name}.png"] = masks.get(name, palette_png(mask_of(seed)))
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            if data is not None:
                info, _ = entry(f"{root}/{name}", data)
                tar.addfile(info, io.BytesIO(data))
        for info, data in extra:
            tar.addfile(info, io.BytesIO(data))
    return path


def extracted(store: Store, spool: Path, *archives: object) -> list[Archive]:
    """The archives at these paths or URLs, in the store."""
    return [extract(str(url), store, spool)[0] for url in archives]


def prepared(
    store: Store,
    spool: Path,
    *archives: object,
    layout: Layout = Layout(),  # noqa: B008  # it is frozen
    **options: Any,
) -> tuple[Separation, Manifest]:
    """Everything that comes before training: extract, separate, build-dataset."""
    found = extracted(store, spool, *archives)
    separation, _ = separate(found, store, spool, layout=layout)
    options = {"classes": VOC_CLASSES, "mask_values": layout.mask_values} | options
    return separation, build_dataset(separation, found, store, spool, **options)[0]
