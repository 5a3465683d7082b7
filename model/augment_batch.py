"""Augmentation of a whole batch at once, by tensor operations: as `model/augment.py` plans it.

A batch is one gather through the inverse of its photos' maps. No shape depends on a value, so a GPU
is never waited for.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.augment import UNCHANGED, Plan, Sizes
from model.images import OUTSIDE, Image
from model.manifest import VOID

_GREY = (0.2989, 0.587, 0.114)  # a colour's brightness, as torchvision's rgb_to_grayscale has it


def packed(photo: Image, mask: Image) -> Tensor:
    """int32 [H W]: of each pixel of uint8 [H, W, 3] and [H, W] red, green, blue and class."""
    pixels = np.dstack([photo, mask]).reshape(-1, 4)
    return torch.from_numpy(pixels).view(torch.int32).squeeze(1)


NOWHERE = packed(np.array([[OUTSIDE]], np.uint8), np.array([[VOID]], np.uint8))


def sampled(
    pixels: Tensor, firsts: npt.NDArray[np.int64], photos: Sizes, plan: Plan
) -> tuple[Tensor, Tensor]:
    """images uint8 [N, 3, H, W] and targets uint8 [N, H, W] as `plan` wants them.

    `pixels` int32 [P] are those of many photos as `packed` has them, one after the other, and
    `NOWHERE` last; the N photos begin at `firsts` and are as high and wide as `photos` [N, 2].
    Colours are interpolated between the nearest four, classes taken from the nearest.
    """
    recolours = (plan.jitter != UNCHANGED).any(axis=1)
    parts = [photos, plan.canvas, plan.shown, plan.inverse, plan.jitter, recolours]
    told = [part.reshape(len(photos), -1).astype(np.float32) for part in parts]
    numbers = _sent(np.concatenate(told, 1), pixels.device)
    first = _sent(firsts, pixels.device)[:, None, None]
    high, wide = numbers[:, :2].long()[:, :, None, None].unbind(1)
    canvas_high, canvas_wide, *maps = numbers[:, 2:14, None, None].unbind(1)
    by_y, from_y, by_x, from_x, yy, yx, y_shift, xy, xx, x_shift = maps

    # Of each pixel's middle: where it is on the canvas, and where in the photo.
    y = by_y * (torch.arange(plan.window.height, device=pixels.device)[:, None] + 0.5) + from_y
    x = by_x * (torch.arange(plan.window.width, device=pixels.device) + 0.5) + from_x
    inside = (y >= 0) & (y < canvas_high) & (x >= 0) & (x < canvas_wide)
    y, x = yy * y + yx * x + y_shift, xy * y + xx * x + x_shift
    inside = inside & (y >= 0) & (y < high) & (x >= 0) & (x < wide)

    def nearest(y: Tensor, x: Tensor) -> Tensor:
        """uint8 [N, H, W, 4] of the photos' pixels nearest to there."""
        row = torch.minimum(y.long().clamp(min=0), high - 1)
        column = torch.minimum(x.long().clamp(min=0), wide - 1)
        places = (first + row * wide + column).where(inside, len(pixels) - 1)
        return pixels.take(places)[..., None].view(torch.uint8)

    targets = nearest(y, x)[..., 3]
    y, x = (y - 0.5).clamp(min=0), (x - 0.5).clamp(min=0)
    top, left = y.floor(), x.floor()
    down, across = (y - top)[..., None], (x - left)[..., None]
    upper, lower = (
        torch.lerp(
            nearest(row, left)[..., :3].float(), nearest(row, left + 1)[..., :3].float(), across
        )
        for row in (top, top + 1)
    )
    colours = torch.lerp(upper, lower, down)
    if recolours.any():
        others = recoloured(colours, inside, numbers[:, 14:18])
        changed = inside & (numbers[:, 18, None, None] > 0)
        colours = others.where(changed[..., None], colours)
    return colours.round().to(torch.uint8).permute(0, 3, 1, 2), targets


def _sent(numbers: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Numbers on the device; a GPU would be waited for if they were not pinned first."""
    here = torch.from_numpy(numbers)
    return (here.pin_memory() if device.type == "cuda" else here).to(device, non_blocking=True)


def recoloured(colours: Tensor, inside: Tensor, factors: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue, in this order, each as torchvision does.

    Args:
        colours: float32 [N, H, W, 3] in 0..255.
        inside: bool [N, H, W], where there is a photo: contrast is that to its mean.
        factors: float32 [N, 4]; hue in turns.
    """
    brightness, contrast, saturation, hue = factors[:, :, None, None, None].unbind(1)
    colours = (colours * brightness).clamp(0, 255)
    grey = _grey(colours).where(inside[..., None], 0)
    mean = grey.sum((1, 2, 3), keepdim=True) / inside.sum((1, 2)).clamp(min=1)[:, None, None, None]
    colours = torch.lerp(mean, colours, contrast).clamp(0, 255)
    colours = torch.lerp(_grey(colours), colours, saturation).clamp(0, 255)
    return _turned(colours, hue)


def _grey(colours: Tensor) -> Tensor:
    """[…, 3] to […, 1]."""
    red, green, blue = colours.unbind(-1)
    grey: Tensor = _GREY[0] * red + _GREY[1] * green + _GREY[2] * blue
    return grey.unsqueeze(-1)


def _turned(colours: Tensor, turns: Tensor) -> Tensor:
    """Hue changed by so many turns; value and chroma are kept.

    https://en.wikipedia.org/wiki/HSL_and_HSV#HSV_to_RGB_alternative
    """
    red, green, blue = colours.unbind(-1)
    value = colours.amax(-1)
    chroma = value - colours.amin(-1)
    by = chroma.where(chroma > 0, 1)
    hue = torch.where(
        value == red,
        (green - blue) / by,
        torch.where(value == green, (blue - red) / by + 2, (red - green) / by + 4),
    )
    sixth = hue + 6 * turns.squeeze(-1)
    distance = [(n + sixth) % 6 for n in (5, 3, 1)]
    return torch.stack([value - chroma * torch.minimum(k, 4 - k).clamp(0, 1) for k in distance], -1)
