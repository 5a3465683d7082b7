"""Augmentation of photos one by one, by OpenCV: as `model/augment.py` plans it."""

from collections.abc import Iterable

import cv2
import numpy as np
import numpy.typing as npt

from model.augment import UNCHANGED, Numbers, Plan
from model.images import OUTSIDE, Image
from model.manifest import MOST_CLASSES, VOID

_BEYOND = MOST_CLASSES  # which is neither a class nor void: not of the photo


def augmented(pairs: Iterable[tuple[Image, Image]], plan: Plan) -> tuple[Image, Image]:
    """Photos uint8 [N, H, W, 3] and masks uint8 [N, H, W] as `plan` wants them.

    They come of photos uint8 [h, w, 3] and masks uint8 [h, w], each as large as the plan knows it.
    """
    photos = np.repeat(np.full((1, *plan.window, 3), OUTSIDE, np.uint8), len(plan.canvas), axis=0)
    masks = np.full(photos.shape[:-1], VOID, np.uint8)
    for i, (photo, mask) in enumerate(pairs):
        window, inverse = _seen_part(plan, i)
        photo, mask = _warped(photo, mask, inverse, masks[i][window].shape)
        inside = (mask != _BEYOND).astype(np.uint8)
        if tuple(plan.jitter[i]) != UNCHANGED:
            photo = recoloured(photo, inside, plan.jitter[i])
        cv2.copyTo(photo, inside, photos[i][window])
        cv2.copyTo(mask, inside, masks[i][window])
    return photos, masks


def _seen_part(plan: Plan, i: int) -> tuple[tuple[slice, slice], Numbers]:
    """Where in the window photo i's canvas is, and [2, 3] from a pixel (x, y, 1) there to one in
    the photo, (x, y)."""
    factors, shifts = plan.shown[i].T
    ends = np.stack([-shifts, plan.canvas[i] - shifts]) * factors  # the window's 0 to its size
    first = np.maximum(ends.min(axis=0), 0).astype(int)
    last = np.minimum(ends.max(axis=0), plan.window).astype(int)
    turned, shift = plan.inverse[i, :, :2], plan.inverse[i, :, 2]
    origin = turned @ (factors * (first + 0.5) + shifts) + shift - 0.5
    inverse = np.column_stack([turned * factors, origin])
    return (slice(first[0], last[0]), slice(first[1], last[1])), inverse[::-1, [1, 0, 2]]


def _warped(
    photo: Image, mask: Image, inverse: Numbers, shape: tuple[int, ...]
) -> tuple[Image, Image]:
    """Photo and mask of `shape`; `_BEYOND` in the mask is beyond the photo."""
    size, smooth, nearest = shape[::-1], cv2.INTER_LINEAR, cv2.INTER_NEAREST
    there = cv2.WARP_INVERSE_MAP
    colours = cv2.warpAffine(
        photo, inverse, size, flags=smooth | there, borderMode=cv2.BORDER_REPLICATE
    )
    classes = cv2.warpAffine(
        mask, inverse, size, flags=nearest | there, borderMode=cv2.BORDER_CONSTANT,
        borderValue=_BEYOND,
    )  # fmt: skip
    return np.asarray(colours, np.uint8), np.asarray(classes, np.uint8)


def recoloured(photo: Image, inside: Image, factors: Numbers) -> Image:
    """Change brightness, contrast, saturation and hue, in this order, each as torchvision does.

    Args:
        photo: uint8 [H, W, 3].
        inside: uint8 [H, W], not 0 where there is a photo: contrast is that to its mean.
        factors: of brightness, contrast, saturation; hue in turns.
    """
    brightness, contrast, saturation, hue = factors.tolist()
    levels = np.arange(256.0)
    bright = cv2.LUT(photo, _levels(levels * brightness))
    mean = cv2.mean(cv2.cvtColor(bright, cv2.COLOR_RGB2GRAY), inside)[0]
    clear = cv2.LUT(bright, _levels(mean + contrast * (levels - mean)))
    grey = cv2.cvtColor(cv2.cvtColor(clear, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    vivid = cv2.addWeighted(clear, saturation, grey, 1 - saturation, 0)
    hsv = cv2.cvtColor(vivid, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(256 * hue) % 256)  # a turn has 256 steps, and begins again
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL), np.uint8)


def _levels(values: Numbers) -> npt.NDArray[np.uint8]:
    return values.round().clip(0, 255).astype(np.uint8)
