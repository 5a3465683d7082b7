"""Checkpoints of a very small net, as the real code writes them."""

from pathlib import Path

import torch

from model import checkpoint
from model.checkpoint import Description
from model.provenance import Provenance
from tiny import CLASSES, RECIPE

WEIGHTS = {
    "a.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "b.bias": torch.ones(3, dtype=torch.bfloat16),
    "c.count": torch.tensor(5),
}


def describe(step: int, miou: float | None = None) -> Description:
    """What a checkpoint at `step` says of itself; `miou` None is one between two validations."""
    return Description(
        run_id="run",
        wandb_id="run",
        recipe=RECIPE,
        classes=CLASSES,
        dataset_key="0" * 64,
        dataset_digest="1" * 64,
        archives=("2" * 64,),
        provenance=Provenance(
            code="abc",
            libraries={"torch": "2"},
            python="3.11",
            processor="a",
            device="cpu",
            precision="float32",
            threads=1,
        ),
        step=step,
        epoch=step // 2,
        steps_per_epoch=2,
        miou=miou,
        iou={"background": miou, "green": None},
    )


def save(folder: Path, step: int, miou: float | None = None) -> Path:
    """Write `WEIGHTS` as the checkpoint of `step`, and return its folder."""
    checkpoint.save(folder, describe(step, miou), {"net": WEIGHTS})
    return folder / f"{step:08d}"
