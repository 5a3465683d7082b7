"""Masks to class indices: against a loop over pixels, and against Pillow alone."""

import io
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image

from model.palette import voc_palette
from pairs import Row
from photos import archive_for
from pipeline.masks import read_mask
from pipeline.parameters import VOC_CLASSES
from pipeline.sample_archive import write_sample_archive

_MASKS = 20  # the loop takes half a second for each


def rows(folder: Path) -> Iterator[Row]:
    """On real masks of VOC's, else on generated ones."""
    masks = _masks(folder)
    colours = {tuple(map(int, colour)): index for index, colour in enumerate(voc_palette())}

    def loop() -> None:
        rgb = np.asarray(PIL.Image.open(io.BytesIO(masks[0])).convert("RGB"))
        height, width = rgb.shape[:2]
        labels = np.zeros((height, width), np.uint8)
        for y in range(height):
            for x in range(width):
                labels[y, x] = colours[tuple(rgb[y, x])]

    def pillow() -> None:
        for data in masks:
            np.array(PIL.Image.open(io.BytesIO(data)))

    def ours() -> None:
        for data in masks:
            read_mask(data, len(VOC_CLASSES), "mask", 1e8)

    def ours_each() -> float:
        began = time.perf_counter()
        ours()
        return (time.perf_counter() - began) / len(masks)

    yield Row(
        "masks to classes", "a loop over pixels", "times as fast", 300, ours_each, loop,
        if_missed=lambda: "nearly all that is left is Pillow's decoding.",
    )  # fmt: skip
    yield Row(
        "masks to classes", "Pillow alone", "times as fast", 0.9, ours, pillow, 15,
        if_missed=lambda: "beside decoding, ours looks at the header, and whether every pixel is a "
        "class or void.",
    )  # fmt: skip


def _masks(folder: Path) -> list[bytes]:
    archive = archive_for("voc")
    if not archive.exists():
        archive = folder / "masks.tar"
        write_sample_archive(archive, train=_MASKS, val=2, size=400)
    with tarfile.open(archive) as tar:
        found = (one for one in tar if "SegmentationClass/" in one.name and one.isfile())
        files = [tar.extractfile(one) for one, _ in zip(found, range(_MASKS), strict=False)]
        return [file.read() for file in files if file]
