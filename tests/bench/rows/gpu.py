"""Training on a GPU, end to end: against loops as tutorials have them, and its own step alone."""

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from model.device import default_workers, usable_cores
from model.job import Job
from model.loader import Batch, training_batches
from model.nets import build_net
from model.recipe import Recipe, Size
from model.recipes import named
from model.state import TrainingState
from model.train import training_step
from pairs import NotMeasured, Row
from rows.loader import AUGMENTED, Reference, photos

_STEPS, _BATCH = 100, 32
_SIDE = 8192  # of the matrices whose product is a device's peak
_ROWS = (
    ("GPU training: ResNet34-UNet, 256 px", "torchvision's reference style, smp, bf16", "≥ 3x"),
    ("GPU training: ResNet34-UNet, 256 px", "its own step, nothing loaded", "≤ 1.05x time"),
    ("GPU training: the original U-Net, 480x320", "milesial's style, AMP", "≥ 2x"),
)


def rows(folder: Path) -> Iterator[Row | NotMeasured]:
    """Images a second from photos in memory or in shards to updated weights."""
    if torch.cuda.is_available():
        yield from on(torch.device("cuda"), folder)
        return
    for what, against, target in _ROWS:
        yield NotMeasured(what, against, target, "needs a GPU")


def on(
    device: torch.device, folder: Path, steps: int = _STEPS, batch: int = _BATCH
) -> Iterator[Row]:
    """The rows on that device, each of so many steps."""
    torch.backends.cudnn.benchmark = True  # as `train` has it, and torchvision's reference
    archive, dataset = photos(folder)
    resnet = named("voc-resnet-unet").override(
        {**AUGMENTED, "image_size": Size(256, 256), "batch_size": batch, "loss": "cross_entropy"}
    )
    unet = named("carvana-unet").override(
        {**AUGMENTED, "fit": "crop", "image_size": Size(320, 480), "batch_size": batch // 4}
    )
    ours, alone, job = _ours(folder / "resnet", dataset, resnet, device, steps)

    def share_of_peak() -> str:
        """Of what the largest matrix products reach here, whatever the data sheet promises."""
        with FlopCounterMode(display=False) as counter:
            _seconds_of(alone)
        done = counter.get_total_flops() / _seconds_of(alone)
        peak = _multiplying(device)
        return (
            f"{done / 1e12:.3g} TFLOP/s, {100 * done / peak:.0f} % of the {peak / 1e12:.3g} that "
            f"bf16 matrices of {_SIDE} x {_SIDE} are multiplied with."
        )

    theirs = smp.Unet("resnet34", encoder_weights=None, classes=len(job.origin.classes))
    style = _plainly(theirs, archive, job, torch.bfloat16, steps)
    yield Row(*_ROWS[0][:2], "times as fast", 3, ours, style)
    yield Row(*_ROWS[1][:2], "of the time", 1.05, ours, alone, besides=share_of_peak)
    ours, _, job = _ours(folder / "unet", dataset, unet, device, steps)
    theirs = build_net(unet, len(job.origin.classes))
    style = _plainly(theirs, archive, job, torch.float16, steps)
    yield Row(*_ROWS[2][:2], "times as fast", 2, ours, style)


def _ours(
    folder: Path, dataset: Path, recipe: Recipe, device: torch.device, steps: int
) -> tuple[Callable[[], object], Callable[[], object], Job]:
    """So many steps as `model/train.py` does them, and the same of one batch again and again."""
    folder.mkdir()
    (folder / "dataset").symlink_to(dataset)
    (folder / "recipe.json").write_text(recipe.override({"epochs": 100_000}).model_dump_json())
    job = Job.open(folder, "bench", device.type)
    state = TrainingState.initial(job)
    state.net.train()
    loaded = training_batches(job.train, job.recipe, job.order, default_workers(), device=device)
    one = next(loaded)

    def run(batches: Iterable[Batch]) -> None:
        for _, batch in zip(range(steps), batches, strict=False):
            loss = training_step(job, state, batch)
        float(loss)  # waits for the device

    return lambda: run(loaded), lambda: run(repeat(one)), job


def _seconds_of(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _multiplying(device: torch.device, side: int = _SIDE, products: int = 20) -> float:
    """FLOP/s of products of square matrices in bf16."""
    factor = torch.ones(side, side, dtype=torch.bfloat16, device=device)

    def multiply() -> None:
        for _ in range(products):
            product = factor @ factor
        float(product[0, 0])  # waits for the device

    multiply()
    return 2 * side**3 * products / _seconds_of(multiply)


def _plainly(
    net: nn.Module, archive: Path, job: Job, dtype: torch.dtype, steps: int
) -> Callable[[], object]:
    """Pillow and torchvision on all cores; autocast, AdamW, and the loss looked at every step."""
    loader = DataLoader(
        Reference(archive, job.train, job.recipe), job.order.batch_size, shuffle=True,
        num_workers=usable_cores(), drop_last=True, pin_memory=True,
        persistent_workers=True,
    )  # fmt: skip
    net = net.to(job.device).train()
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler(job.device.type, enabled=dtype == torch.float16)

    def run() -> None:
        done = 0
        while done < steps:
            for _, (images, targets) in zip(range(steps - done), loader, strict=False):
                images, targets = images.to(job.device), targets.to(job.device)
                with torch.autocast(job.device.type, dtype=dtype):
                    loss = nn.functional.cross_entropy(
                        net(images), targets.long(), ignore_index=255
                    )
                optimiser.zero_grad()
                scaler.scale(loss).backward()
                scaler.step(optimiser)
                scaler.update()
                loss.item()
                done += 1

    return run
