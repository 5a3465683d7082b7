"""Archives of two folders for tests, Carvana's among them: photos of noise, masks of two values."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from devkit import Pixels, encoded, jpeg, mask_of
from tars import pack


def binary(seed: str = "") -> Pixels:
    """A mask of 0 and 1, uint8 [H, W], the same for the same seed."""
    return mask_of(seed) % 2


def black_and_white(seed: str = "") -> bytes:
    """The same mask as most tools write it: a grey PNG of 0 and 255."""
    return encoded(Image.fromarray(binary(seed) * np.uint8(255)), "PNG")


def two_folders(
    path: Path,
    names: Iterable[str] = ("a", "b", "c", "d", "e"),
    *,
    photos: str = "images",
    masks: str = "masks",
    suffix: str = "",
    files: Mapping[str, bytes | None] = {},
) -> Path:
    """Write an archive with a photo and a black-and-white mask for every name; return its path.

    `files` adds or replaces files by their whole name, None leaves them out.
    """
    packed: dict[str, bytes | None] = {}
    for name in names:
        packed[f"{photos}/{name}.jpg"] = jpeg(name)
        packed[f"{masks}/{name}{suffix}.png"] = black_and_white(name)
    packed |= files
    return pack(path, {name: data for name, data in packed.items() if data is not None})


def carvana(path: Path, views: Iterable[str], root: str = "") -> Path:
    """Write an archive as Kaggle's: GIF masks of 0 and 1 for photos named ID_VV."""
    files = {}
    for name in views:
        picture = Image.fromarray(binary(name))
        picture.putpalette([0, 0, 0, 255, 255, 255])
        files[f"{root}train/{name}.jpg"] = jpeg(name)
        files[f"{root}train_masks/{name}_mask.gif"] = encoded(picture, "GIF", optimize=False)
    return pack(path, files)
