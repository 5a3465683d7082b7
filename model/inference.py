"""Predicting with a trained net: from a photo to scores of every class at every pixel."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import checkpoint
from model.device import autocast, pick_device, pick_memory_format, pick_precision
from model.errors import InputError
from model.images import Image, resized_photo
from model.loader import normalise
from model.nets import build_net
from model.recipe import Recipe, Size

_SMALLEST_WINDOW = 8  # pixels, as of a recipe's image_size


@dataclass(frozen=True)
class Predictor:
    """A net and all that it takes to predict with it; the net must be in eval mode.

    Attributes:
        window: side in pixels of the square windows that a larger photo is predicted in; None
            predicts it in one pass. It bounds the memory that the net takes.
        max_side: the net sees photos with a longer side shrunk to this one, in pixels, as those it
            was trained on were.
        flip: average the logits of the photo and of its mirror image, which for two softmaxes is
            their geometric mean. It costs a second pass.
    """

    net: nn.Module
    recipe: Recipe
    device: torch.device
    dtype: torch.dtype
    memory_format: torch.memory_format
    window: int | None = None
    flip: bool = False
    max_side: int | None = None

    def __post_init__(self) -> None:
        """Raises InputError for a window that cannot be."""
        if self.window is None:
            return
        if self.window < _SMALLEST_WINDOW:
            raise InputError(
                f"A window of {self.window} pixels is too small to see anything in; take at least "
                f"{_SMALLEST_WINDOW}, better the recipe's image_size ({self.recipe.image_size})."
            )
        if self.recipe.fit == "resize":
            raise InputError(
                f"The recipe {self.recipe.name!r} sees every photo whole, squeezed to "
                f"{self.recipe.image_size} pixels; leave out the window."
            )

    @classmethod
    def of(
        cls,
        net: nn.Module,
        recipe: Recipe,
        device: torch.device,
        *,
        window: int | None = None,
        flip: bool = False,
        max_side: int | None = None,
    ) -> Self:
        """For a net on `device`; precision and memory format are those of the recipe."""
        dtype = pick_precision(recipe.precision, device)
        memory_format = pick_memory_format(recipe.channels_last)
        return cls(net, recipe, device, dtype, memory_format, window, flip, max_side)

    @classmethod
    def load(
        cls, path: Path, device: str = "auto", *, window: int | None = None, flip: bool = False
    ) -> tuple[Self, checkpoint.Description]:
        """The net of a checkpoint file, and what that says of itself; InputError when it is bad."""
        description, state = checkpoint.load(path)
        where = pick_device(device)
        recipe = description.recipe
        try:
            with torch.device("meta"):  # whatever the recipe says, it takes no memory
                net = build_net(recipe, len(description.classes))
            if {k: w.dtype for k, w in net.state_dict().items()} != {
                k: w.dtype for k, w in state["net"].items()
            }:
                raise TypeError
            net.load_state_dict(state["net"], assign=True)
            finite = all(bool(weight.isfinite().all()) for weight in net.state_dict().values())
        except (RuntimeError, TypeError, ValueError, AttributeError):
            raise InputError(f"{path} does not hold the weights of its own recipe's net.") from None
        if not finite:
            raise InputError(f"{path} holds weights that are no numbers; take another checkpoint.")
        net = net.to(where).to(memory_format=pick_memory_format(recipe.channels_last)).eval()
        predictor = cls.of(
            net, recipe, where, window=window, flip=flip, max_side=description.max_side
        )
        return predictor, description

    def logits(self, photo: Image) -> Tensor:
        """Logits float32 [C, H, W] of one photo uint8 [H, W, 3], on the device.

        Where the net was trained on photos of another size, it is brought to that, and its logits
        back.
        """
        own = Size(*photo.shape[:2])
        shrunk = own.scaled(min(1.0, (self.max_side or max(own)) / max(own)))
        seen = self.recipe.seen_size(shrunk)
        if seen != own:
            photo = resized_photo(photo, *seen)
        images = torch.from_numpy(photo).permute(2, 0, 1)[None].to(self.device)
        images = normalise(images, self.recipe.normalise)
        with self._settled(), torch.inference_mode():
            logits = self._windowed(images)
            if self.flip:
                logits = (logits + self._windowed(images.flip(-1)).flip(-1)) / 2
        if seen != own:
            logits = F.interpolate(logits, own, mode="bilinear")
        return logits[0]

    def _settled(self) -> AbstractContextManager[object]:
        """Trying out kernels for every new size is slow, and might choose others elsewhere."""
        if self.device.type != "cuda":  # all threads of the process share these
            return nullcontext()
        return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)

    def _windowed(self, images: Tensor) -> Tensor:
        """Logits float32 [1, C, H, W] of float32 [1, 3, H, W]."""
        if self.window is None:
            return self._pass(images)
        return in_windows(self._pass, images, self.window)

    def _pass(self, images: Tensor) -> Tensor:
        with autocast(self.device, self.dtype):
            logits: Tensor = self.net(images.contiguous(memory_format=self.memory_format))
        return logits.float()


def in_windows(net: Callable[[Tensor], Tensor], images: Tensor, side: int) -> Tensor:
    """Logits [N, C, H, W] of `images` [N, 3, H, W], put together from windows of `side` pixels.

    Neighbouring windows overlap by half or more. Where they do, their logits are averaged with the
    weights w(y) w(x), w(i) = sin²(π (i + 1/2) / side), a Hann window: it is almost zero at a
    window's edge, where the net sees least of what is around, so no seam shows.
    """
    height, width = images.shape[-2:]
    if height <= side and width <= side:
        return net(images)
    tall, wide = min(side, height), min(side, width)
    weight = _hann(tall, images.device)[:, None] * _hann(wide, images.device)
    total = torch.zeros((), device=images.device)
    weights = torch.zeros(height, width, device=images.device)
    for top in _starts(height, tall):
        for left in _starts(width, wide):
            rows, columns = slice(top, top + tall), slice(left, left + wide)
            logits = net(images[..., rows, columns])
            if not total.dim():
                total = logits.new_zeros(*logits.shape[:2], height, width)
            total[..., rows, columns] += logits * weight
            weights[rows, columns] += weight
    return total / weights


def _starts(length: int, side: int) -> list[int]:
    """Where the windows along one axis begin: evenly spread, at most half a side apart."""
    last = length - side
    steps = math.ceil(last / max(1, side // 2))
    return [round(i * last / steps) for i in range(steps + 1)] if steps else [0]


def _hann(side: int, device: torch.device) -> Tensor:
    """The weights along one axis, float32 [side], none of them zero."""
    places = torch.arange(side, device=device, dtype=torch.float32)
    return torch.sin(math.pi * (places + 0.5) / side) ** 2
