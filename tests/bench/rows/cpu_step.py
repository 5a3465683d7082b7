"""A training step on the CPU: against smp's net of the same kind, trained plainly and well."""

from collections.abc import Callable, Iterator
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from model.counted import counted
from model.device import autocast, default_threads, pick_device, pick_memory_format, pick_precision
from model.loader import normalise
from model.losses import build_loss
from model.nets import build_net
from model.optim import build_optimiser
from model.recipe import Size
from model.recipes import named
from pairs import NotMeasured, Row

_SIDE, _BATCH, _CLASSES = 224, 8, 21
_ALIKE = 0.02  # how far parameters and operations of the two nets may be apart


def rows(folder: Path) -> Iterator[Row | NotMeasured]:
    """Both compute by as many threads as a run does."""
    torch.set_num_threads(default_threads())
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(
        0, 256, (_BATCH, 3, _SIDE, _SIDE), dtype=torch.uint8, generator=generator
    )
    targets = torch.randint(0, _CLASSES, (_BATCH, _SIDE, _SIDE), generator=generator)
    ours = build_net(named("voc-resnet-unet"), _CLASSES)
    theirs = smp.Unet("resnet34", encoder_weights=None, classes=_CLASSES)
    _must_be_alike(ours, theirs)
    ours_step = _ours(ours, images, targets)
    what = (
        f"CPU training step: ResNet34-UNet, {_SIDE} px, batch {_BATCH}, "
        f"{counted(torch.get_num_threads(), 'thread')}"
    )
    plain = _plain(theirs, images, targets)
    yield Row(
        what, "smp, plain fp32", "of the time", 0.45, ours_step, plain,
        if_missed=lambda: f"{100 * _convolving(plain):.0f} % of the baseline's time are fp32 "
        "convolutions, which ours does as well" + ("." if _has_bf16() else
        "; the target is that of a processor with bf16, which this one lacks."),
    )  # fmt: skip
    if _has_bf16():
        best = _well(theirs, images, targets)
        yield Row(what, "smp, bf16 and channels_last", "of the time", 0.95, ours_step, best)
    else:
        why = "this processor would emulate bf16"
        yield NotMeasured(what, "smp, bf16 and channels_last", "≤ 0.95x time", why)


def _has_bf16() -> bool:
    return pick_precision("auto", torch.device("cpu")) == torch.bfloat16


def _convolving(step: Callable[[], object]) -> float:
    """The share of a step that is spent in convolutions, forwards and backwards."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        step()
    spent = {event.key: event.self_cpu_time_total for event in seen.key_averages()}
    convolving = sum(time for name, time in spent.items() if "convolution" in name)
    return convolving / sum(spent.values())


def _ours(net: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> Callable[[], object]:
    """As `model/train.py` does it."""
    settings = {"image_size": Size(_SIDE, _SIDE), "loss": "cross_entropy"}
    recipe = named("voc-resnet-unet").override(settings)
    device = pick_device("cpu")
    dtype = pick_precision(recipe.precision, device)
    layout = pick_memory_format(recipe.channels_last)
    net = net.to(memory_format=layout).train()
    optimiser, loss_of = build_optimiser(recipe, net), build_loss(recipe)
    truth = targets.byte()

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        seen = normalise(images, recipe.normalise).contiguous(memory_format=layout)
        with autocast(device, dtype):
            logits = net(seen)
        loss_of(logits, truth).backward()
        optimiser.step()

    return step


def _plain(net: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> Callable[[], object]:
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
    seen = images.float() / 255

    def step() -> None:
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(seen), targets).backward()
        optimiser.step()

    return step


def _well(net: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> Callable[[], object]:
    net = net.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
    seen = (images.float() / 255).contiguous(memory_format=torch.channels_last)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = net(seen)
        nn.functional.cross_entropy(logits.float(), targets).backward()
        optimiser.step()

    return step


def _must_be_alike(ours: nn.Module, theirs: nn.Module) -> None:
    """A smaller net would be faster, and no gain."""
    for size in (_parameters, _operations):
        mine, other = size(ours), size(theirs)
        if abs(mine - other) > _ALIKE * other:
            raise RuntimeError(f"{size.__name__}: {mine:,} and {other:,} are no equal nets")


def _parameters(net: nn.Module) -> int:
    return sum(one.numel() for one in net.parameters())


def _operations(net: nn.Module) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net.eval()(torch.zeros(1, 3, _SIDE, _SIDE))
    net.train()
    return counter.get_total_flops()
