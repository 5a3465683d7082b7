"""Validation samples as pictures a person can judge: photo, truth and prediction side by side.

Classes lie in their VOC colours over the faded photo, so that a wrong edge is seen against what it
should have followed; VOC's colours are dark, hence faded towards white.
"""

import io
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import PIL.Image
from PIL import ImageDraw, ImageFont

from model.images import Image
from model.manifest import VOID
from model.palette import voc_palette

_PAPER, _INK, _CREAM = (250, 250, 248), (70, 70, 78), (240, 234, 200)
_HEADINGS = ("photo", "truth", "prediction")
_BOTH = ("photo", "truth", "challenger", "champion")


class Picture(NamedTuple):
    """A sample: photo uint8 [H, W, 3] in RGB; truth and prediction uint8 [H, W], 255 void."""

    id: str
    photo: Image
    truth: Image
    prediction: Image
    champion: Image | None = None  # the champion's prediction, beside that of its challenger


def headings(pictures: Sequence[Picture]) -> tuple[str, ...]:
    """What each panel of such pictures shows."""
    return _BOTH if any(picture.champion is not None for picture in pictures) else _HEADINGS


def panels(picture: Picture, width: int, height: int) -> tuple[Image, ...]:
    """Photo, truth, prediction, and the champion's if any: each RGB uint8 [height, width, 3]."""
    shrinks = width < picture.photo.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    photo = np.asarray(cv2.resize(picture.photo, (width, height), interpolation=method), np.uint8)
    masks = (picture.truth, picture.prediction, picture.champion)
    return photo, *(_painted(mask, photo) for mask in masks if mask is not None)


def present(picture: Picture) -> set[int]:
    """The classes in truth or prediction, without background and void."""
    masks = (picture.truth, picture.prediction, picture.champion)
    found = np.unique(np.concatenate([mask.ravel() for mask in masks if mask is not None]))
    return {int(index) for index in found} - {0, VOID}


def overview_png(pictures: Sequence[Picture], classes: Sequence[str]) -> bytes:
    """Up to eight samples, two beside each other, with a legend: a PNG.

    `classes` are the names by index; a panel is 200 pixels wide, and as high as its photo demands.
    """
    pictures = pictures[:8]
    side, gap, gutter, margin, line = 200, 6, 40, 32, 28
    named = headings(pictures)
    width = len(named) * (side + gap) - gap
    columns = min(2, len(pictures)) or 1
    lefts = [margin + column * (width + gutter) for column in range(columns)]
    bottoms = [margin + line] * columns
    placed: list[tuple[int, int, Image]] = []
    for picture in pictures:
        column = int(np.argmin(bottoms))
        tall, wide = picture.truth.shape
        share = min(side / wide, 1.5 * side / tall)
        size = max(1, round(wide * share)), max(1, round(tall * share))
        for index, panel in enumerate(panels(picture, *size)):
            left = lefts[column] + index * (side + gap) + (side - size[0]) // 2
            placed.append((left, bottoms[column], panel))
        bottoms[column] += size[1] + 3 * gap

    font = ImageFont.load_default(15)
    names = [" ".join(name.split()) for name in classes]  # a line break cannot be measured
    legend: list[tuple[float, float, int]] = []  # left, top, class
    left, top = float(margin), float(max(bottoms) + gap)
    right = lefts[-1] + width
    for index in sorted(set().union(*map(present, pictures))):
        needed = 24 + font.getlength(names[index])
        if left + needed > right:
            left, top = float(margin), top + line
        legend.append((left, top, index))
        left += needed + line

    canvas = PIL.Image.new("RGB", (right + margin, round(top) + line + margin // 2), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for start in lefts:
        for index, heading in enumerate(named):
            draw.text((start + index * (side + gap), margin - 4), heading, _INK, font)
    for x, y, panel in placed:
        canvas.paste(PIL.Image.fromarray(panel), (x, y))
    for left, top, index in legend:
        red, green, blue = map(int, voc_palette()[index])
        draw.rounded_rectangle((left, top, left + 15, top + 15), 4, (red, green, blue))
        draw.text((left + 24, top - 2), names[index], _INK, font)
    file = io.BytesIO()
    canvas.save(file, "PNG", optimize=True)
    return file.getvalue()


def _painted(mask: Image, photo: Image) -> Image:
    """Class indices `mask`, of any size, over `photo`, faded: RGB, the photo's shape."""
    height, width = photo.shape[:2]
    labels = np.asarray(
        cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8
    )
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    faded = 255 - 0.5 * (255 - grey)
    # A solid rim, where a neighbour has another label, keeps touching objects apart.
    rim = cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    opacity = np.where(rim, 1.0, 0.72)
    opacity[labels == 0] = 0
    colour = voc_palette()[labels]
    void = labels == VOID
    y, x = np.indices((height, width))
    colour[void] = _CREAM
    opacity[void] = np.where((x + y) // 3 % 2, 0.95, 0.55)[void]
    blended = faded + (colour - faded) * opacity[..., None]
    return np.asarray(np.rint(blended), np.uint8)
