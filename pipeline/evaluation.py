"""Score a checkpoint on archives: the first three stages, then the model's own evaluation."""

from pathlib import Path
from typing import TYPE_CHECKING

from infra.stores import Store
from model.dataset import SPLITS
from model.errors import InputError
from pipeline.dataset import local_dataset
from pipeline.parameters import Parameters, home
from pipeline.stages.build_dataset import build_dataset
from pipeline.stages.extract import extract
from pipeline.stages.separate import separate

if TYPE_CHECKING:
    from model.evaluate import Score


def evaluate_on_archives(path: Path, parameters: Parameters, split: str) -> "Score":
    """Score the checkpoint at `path` on one split of the archives, by the classes it knows."""
    if split not in SPLITS:
        raise InputError(f"There is no split {split!r}; there are {', '.join(SPLITS)}.")
    from model import checkpoint
    from model.evaluate import evaluate_checkpoint

    description, _ = checkpoint.load(path)
    store, spool = Store.open(parameters.store), home() / "spool"
    limits = parameters.limits
    archives = [
        extract(url, store, spool, max_bytes=int(limits.archive_gb * 1e9))[0]
        for url in parameters.archives
    ]
    separation, _ = separate(
        archives, store, spool, skip_missing=parameters.skip_missing, needed=(split,)
    )
    dataset, _ = build_dataset(
        separation,
        archives,
        store,
        spool,
        classes=description.classes,
        max_side=parameters.max_side,
        max_pixels=limits.photo_megapixels * 1e6,
        shard_bytes=limits.shard_mb << 20,
    )
    folder = local_dataset(dataset, store, home() / "datasets")
    return evaluate_checkpoint(path, folder, split=split, device=parameters.device).score
