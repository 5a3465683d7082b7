"""A small archive in the PASCAL VOC devkit's layout, drawn rather than photographed.

Coloured shapes lie on textured ground, some partly under others. The class of an object is its
shape: colour only hints at it, so a net has to look. `python -m pipeline.sample_archive PATH`
writes one; the dry run, the tests and the benchmarks train on it.
"""

import argparse
import filecmp
import io
import math
import os
import sys
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.errors import InputError
from model.palette import voc_palette

SAMPLE_CLASSES: tuple[str, ...] = ("background", "disc", "ring", "cross")
"""Class names by mask index; index 255 is void."""

Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.uint8]
Direction = tuple[float, float]

_ROOT = "VOCdevkit/VOC2012"
_FOLDERS = ("ImageSets", "ImageSets/Segmentation", "JPEGImages", "SegmentationClass")
_MTIME = 1_335_830_400  # 1 May 2012: any constant does, the bytes must not know today's date
_VOID = 255
_HUE_SPREAD = 50.0  # degrees around a class's own hue: wide enough that neighbours overlap


def _distance(shape: str, x: Floats, y: Floats, radius: float) -> Floats:
    """Signed distance in pixels from points (x, y) to a shape's outline, negative inside."""
    r = np.hypot(x, y)
    if shape == "disc":
        return np.asarray(r - radius)
    if shape == "ring":
        return np.asarray(np.abs(r - 0.9 * radius) - 0.26 * radius)
    return np.minimum(_bar(x, y, radius), _bar(y, x, radius))  # a cross is two bars


def _bar(x: Floats, y: Floats, radius: float) -> Floats:
    """Signed distance to an upright rectangle, 0.64 by 2.4 radii."""
    from_x, from_y = np.abs(x) - 0.32 * radius, np.abs(y) - 1.2 * radius
    outside = np.hypot(np.maximum(from_x, 0), np.maximum(from_y, 0))
    return np.asarray(outside + np.minimum(np.maximum(from_x, from_y), 0))


def _lab(lightness: float, chroma: float, hue: float) -> Floats:
    """Convert CIE LCh (hue in degrees) to RGB in 0..1, float32 [3]."""
    a, b = chroma * np.cos(np.radians(hue)), chroma * np.sin(np.radians(hue))
    rgb = cv2.cvtColor(np.array([[[lightness, a, b]]], np.float32), cv2.COLOR_Lab2RGB)
    return np.asarray(np.clip(rgb[0, 0], 0, 1), np.float32)


def _clouds(rng: np.random.Generator, height: int, width: int, cell: float) -> Floats:
    """Smooth noise of zero mean and unit variance, float32 [height, width], down to fine grain."""
    total: Floats = np.zeros((height, width), np.float32)
    for octave in range(4):
        step = max(cell / 2**octave, 1.0)
        grid = rng.standard_normal((int(height / step) + 3, int(width / step) + 3), np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * 0.6**octave
    return np.asarray((total - total.mean()) / (total.std() + 1e-6))


def _ground(rng: np.random.Generator, x: Floats, y: Floats, light: Direction) -> Floats:
    """Sand, stone or wood: a ramp between two quiet colours, lit from the side; [H, W, 3]."""
    height, width = x.shape
    span = max(height, width)
    relief = _clouds(rng, height, width, span * rng.uniform(0.12, 0.4))
    turn, period = rng.uniform(0, np.pi), span * rng.uniform(0.08, 0.2)
    across = x * math.cos(turn) + y * math.sin(turn)
    ripples = np.sin(2 * np.pi * across / period + rng.uniform(0.8, 2.2) * relief)
    relief += (0.0, 0.6, 1.2)[rng.integers(3)] * ripples
    hue = rng.uniform(0, 360)
    dark = _lab(rng.uniform(28, 55), rng.uniform(5, 32), hue)
    pale = _lab(rng.uniform(55, 82), rng.uniform(5, 32), hue + rng.normal(0, 35))
    ramp = 1 / (1 + np.exp(-1.3 * relief))
    slope_y, slope_x = np.gradient(relief)
    lit = 1 - span / 600 * (slope_x * light[0] + slope_y * light[1])
    return np.asarray((dark + (pale - dark) * ramp[..., None]) * lit[..., None])


def _paint(rng: np.random.Generator, label: int, u: Floats, v: Floats, radius: float) -> Floats:
    """The colours of an object in its own coordinates: plain, striped or dotted; [H, W, 3]."""
    hue = 360 * (label - 1) / (len(SAMPLE_CLASSES) - 1) + 30 + rng.normal(0, _HUE_SPREAD)
    base = _lab(rng.uniform(45, 80), rng.uniform(35, 75), hue)
    other = _lab(rng.uniform(40, 92), rng.uniform(20, 60), hue + rng.normal(0, 60))
    wave = 2 * np.pi / (radius * rng.uniform(0.45, 0.8))
    pattern = rng.choice(["plain", "striped", "dotted"])
    if pattern == "plain":
        share = 0.25 * v / radius
    elif pattern == "striped":
        share = np.sin(u * wave) * 2
    else:
        share = np.sin(u * wave) * np.sin(v * wave) * 4 - 1
    return np.asarray(base + (other - base) * np.clip(share, 0, 1)[..., None])


def _place(rng: np.random.Generator, taken: Floats, height: int, width: int) -> Floats:
    """A centre (x, y): of four candidates the one farthest from centres taken, [N, 2]."""
    margin = 0.1 * min(height, width)
    spots = rng.uniform(margin, (width - margin, height - margin), (4, 2)).astype(np.float32)
    if not len(taken):
        return np.asarray(spots[0])
    gaps = np.linalg.norm(spots[:, None] - taken, axis=2).min(axis=1)
    return np.asarray(spots[int(gaps.argmax())])


def _add_object(
    rng: np.random.Generator, photo: Floats, mask: Labels, centre: Floats, light: Direction
) -> None:
    """Draw one object with its shadow onto `photo` and `mask`, in place.

    The distance to an outline changes by at most one a pixel, so a void band wider than a
    pixel's diagonal keeps an object apart from all eight neighbours of another class.
    """
    height, width = mask.shape
    label = int(rng.integers(1, len(SAMPLE_CLASSES)))
    shape = SAMPLE_CLASSES[label]
    radius = min(height, width) * rng.uniform(0.13, 0.25)
    rows, columns = (slice(max(0, int(c - 2 * radius)), int(c + 2 * radius)) for c in centre[::-1])
    photo, mask = photo[rows, columns], mask[rows, columns]  # nothing is drawn farther away
    y, x = np.indices(mask.shape, dtype=np.float32)
    from_x, from_y = float(centre[0]) - columns.start, float(centre[1]) - rows.start
    turn = rng.uniform(0, 2 * math.pi)

    def local(shift: float) -> tuple[Any, Any]:
        dx, dy = x - from_x + shift * light[0], y - from_y + shift * light[1]
        return (
            dx * math.cos(turn) + dy * math.sin(turn),
            dy * math.cos(turn) - dx * math.sin(turn),
        )

    shadow = _distance(shape, *local(0.18 * radius), radius) / (0.07 * radius)
    photo *= 1 - 0.5 / (1 + np.exp(np.minimum(shadow, 30)))[..., None]
    u, v = local(0.0)
    distance = _distance(shape, u, v, radius)
    slope_y, slope_x = np.gradient(distance)
    rim = np.clip(1 + distance / (0.4 * radius), 0, 1) ** 2
    lit = 1 + 0.35 * rim * (slope_x * light[0] + slope_y * light[1])
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    photo += cover * (_paint(rng, label, u, v, radius) * lit[..., None] - photo)
    band = max(1.0, max(height, width) / 200)
    mask[distance < band] = _VOID
    mask[distance < -band] = label


def _scene(seed: int, index: int, height: int, width: int) -> tuple[Labels, Labels]:
    """Draw picture `index` of `seed`: photo, uint8 [H, W, 3] (RGB), and mask, uint8 [H, W]."""
    rng = np.random.default_rng([seed, index])
    y, x = np.indices((height, width), dtype=np.float32)
    turn = rng.uniform(0, 2 * math.pi)
    light = math.cos(turn), math.sin(turn)  # towards the lamp
    photo = _ground(rng, x, y, light)
    mask = np.zeros((height, width), np.uint8)
    centres = np.empty((0, 2), np.float32)
    for _ in range(int(rng.integers(2, 6))):
        centre = _place(rng, centres, height, width)
        centres = np.vstack([centres, centre])
        _add_object(rng, photo, mask, centre, light)
    nearer = ((x / width - 0.5) * light[0] + (y / height - 0.5) * light[1])[..., None]
    tint = rng.uniform(0.92, 1.08, 3).astype(np.float32)
    photo *= tint * rng.uniform(0.9, 1.15) * (1 + rng.uniform(0.1, 0.45) * nearer)
    photo += rng.standard_normal(photo.shape, np.float32) * rng.uniform(0.008, 0.03)
    return (np.clip(photo, 0, 1) * 255 + 0.5).astype(np.uint8), mask


def _jpeg(photo: Labels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "JPEG", quality=90)
    return file.getvalue()


def _png(mask: Labels) -> bytes:
    image = Image.fromarray(mask)
    image.putpalette(voc_palette().tobytes())
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _members(
    train: int, val: int, unlabelled: int, size: int, seed: int, shuffle_masks: bool
) -> Iterator[tuple[str, bytes | None]]:
    """Yield (name, content) of every member in order; the content of a folder is None."""
    total = train + val + unlabelled
    order = np.random.default_rng([seed]).permutation(total) + 1
    lists = {
        "train": np.sort(order[:train]),
        "val": np.sort(order[train : train + val]),
        "trainval": np.sort(order[: train + val]),
    }
    long, short = size, round(0.75 * size)
    sizes = [(short, long), (long, short), (short - 1, long - 1), (long - 1, short), (long, long)]
    mask_of = np.arange(total + 1)
    if shuffle_masks:
        for kind in range(len(sizes)):  # each photo gets the mask of the next one of its size
            alike = order[:train][order[:train] % len(sizes) == kind]
            mask_of[alike] = np.roll(alike, 1)

    yield "VOCdevkit", None
    yield _ROOT, None
    for folder in _FOLDERS:
        yield f"{_ROOT}/{folder}", None
    for name, indices in lists.items():
        text = "".join(f"2012_{index:06d}\n" for index in indices)
        yield f"{_ROOT}/ImageSets/Segmentation/{name}.txt", text.encode()
    labelled = set(lists["trainval"].tolist())
    for index in range(1, total + 1):
        height, width = sizes[index % len(sizes)]
        photo, mask = _scene(seed, index, height, width)
        yield f"{_ROOT}/JPEGImages/2012_{index:06d}.jpg", _jpeg(photo)
        if index not in labelled:
            continue
        if mask_of[index] != index:
            mask = _scene(seed, int(mask_of[index]), height, width)[1]
        yield f"{_ROOT}/SegmentationClass/2012_{index:06d}.png", _png(mask)


def _write_tar(file: BinaryIO, members: Iterator[tuple[str, bytes | None]]) -> None:
    """Write members one by one; `tarfile` would keep a record of each in memory."""
    for name, content in members:
        info = tarfile.TarInfo(name)
        info.mtime, info.mode = _MTIME, 0o644
        if content is None:
            info.type, info.mode = tarfile.DIRTYPE, 0o755
        info.size = len(content or b"")
        file.write(info.tobuf(tarfile.USTAR_FORMAT))
        file.write((content or b"") + bytes(-info.size % tarfile.BLOCKSIZE))
    file.write(bytes(2 * tarfile.BLOCKSIZE))


def write_sample_archive(
    path: Path,
    *,
    train: int = 200,
    val: int = 48,
    unlabelled: int = 12,
    size: int = 96,
    seed: int = 0,
    shuffle_masks: bool = False,
) -> None:
    """Write the archive: photos and masks in the devkit's layout, the same bytes for the same call.

    `train`, `val` and `unlabelled` count photos; `size` is the longest side in pixels, and sizes
    vary, odd ones among them. With `shuffle_masks` every training photo gets the mask of another:
    a control, from which nothing can be learned. Memory is flat however many photos.
    """
    if min(train, val) < 1 or unlabelled < 0 or size < 16:
        raise InputError("A sample archive needs train and val photos, and a size of 16 or more.")
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            _write_tar(file, _members(train, val, unlabelled, size, seed, shuffle_masks))
        # A file with the same bytes keeps its date, by which a run knows it again.
        if not (path.is_file() and filecmp.cmp(temporary, path, shallow=False)):
            temporary.replace(path)
    except OSError as error:
        why = f"{path} cannot be written ({error.strerror}): name another path."
        raise InputError(why) from None
    finally:
        with suppress(OSError):  # it is gone already, or its folder was never there
            temporary.unlink()


def main() -> int:
    """Command line; 0 done, 2 wrong input."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.sample_archive",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=Path, help="the tar to write")
    parser.add_argument("--train", type=int, default=200, help="photos to train on")
    parser.add_argument("--val", type=int, default=48, help="photos to validate on")
    parser.add_argument("--unlabelled", type=int, default=12, help="photos without a mask")
    parser.add_argument("--size", type=int, default=96, help="longest side in pixels")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other pictures")
    args = parser.parse_args()
    try:
        write_sample_archive(
            args.path,
            train=args.train,
            val=args.val,
            unlabelled=args.unlabelled,
            size=args.size,
            seed=args.seed,
        )
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{args.path}: {args.train + args.val} pairs, {args.unlabelled} photos without a mask")
    return 0


if __name__ == "__main__":
    sys.exit(main())
