"""Four photos with masks to learn by heart: real ones where there are some, else generated."""

import io
import os
import tarfile
from pathlib import Path

import cv2
import numpy as np
import PIL.Image

from model.images import Image
from model.manifest import VOID
from tiny import labelled

REAL_DATA = Path(
    os.environ.get("VOC_TRAIN_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")
)
_KIND = {"people": "people-binary.tar", "carvana": "carvana-64.tar"}
_FOUR = 4


def archive_for(recipe: str) -> Path:
    """The archive of real photos of the kind that a recipe was made for; it may not be there."""
    return REAL_DATA / _KIND.get(recipe.partition("-")[0], "voc2012-subset.tar")


def four(recipe: str, side: int = 32) -> list[tuple[Image, Image]]:
    """Four photos uint8 [S, S, 3] and masks uint8 [S, S], each with two classes to be seen.

    Their classes are numbered anew, without gaps.
    """
    archive = archive_for(recipe)
    if not archive.exists():
        return [labelled(i, side, side) for i in range(_FOUR)]
    with tarfile.open(archive) as tar:
        names = {Path(m.name).stem: m.name for m in tar if m.name.endswith(".jpg")}
        masks = {
            Path(m.name).stem.removesuffix("_mask"): m.name
            for m in tar
            if "mask" in m.name or "SegmentationClass/" in m.name
        }
        pairs: list[tuple[Image, Image]] = []
        # Neighbours in an archive often show the same thing.
        for stem in sorted(names.keys() & masks.keys())[::3]:
            photo, mask = _small(_decoded(tar, names[stem]), _decoded(tar, masks[stem]), side)
            _, counts = np.unique(mask[mask != VOID], return_counts=True)
            if len(counts) == 2 and counts.min() > mask.size / 8 and len(pairs) < _FOUR:
                pairs.append((photo, mask))
    present = np.unique([index for _, mask in pairs for index in np.unique(mask)])
    anew = np.full(256, VOID, np.uint8)
    anew[present[present != VOID]] = np.arange((present != VOID).sum())
    return [(photo, anew[mask]) for photo, mask in pairs]


def _decoded(tar: tarfile.TarFile, name: str) -> Image:
    file = tar.extractfile(name)
    assert file
    return np.asarray(PIL.Image.open(io.BytesIO(file.read())))


def _small(photo: Image, mask: Image, side: int) -> tuple[Image, Image]:
    size = side, side
    small = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
    labels = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(small, np.uint8), np.asarray(labels, np.uint8)
