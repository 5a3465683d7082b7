"""Score a checkpoint on archives: the first three stages, then the model's own evaluation."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from infra.stores import Store
from model.errors import InputError
from model.manifest import SPLITS
from pipeline.dataset import local_dataset
from pipeline.parameters import Parameters, home
from pipeline.preparation import prepare_dataset
from pipeline.progress import Listener
from pipeline.run import staged

if TYPE_CHECKING:
    from model.evaluate import Score


def evaluate_on_archives(
    path: Path,
    parameters: Parameters,
    split: str,
    listeners: Sequence[Listener],
    *,
    window: int | None = None,
    flip: bool = False,
) -> "Score":
    """Score the checkpoint at `path` on one split of the archives, by the classes it knows."""
    if split not in SPLITS:
        raise InputError(f"There is no split {split!r}; there are {', '.join(SPLITS)}.")
    from model import checkpoint
    from model.evaluate import evaluate_checkpoint

    description, _ = checkpoint.load(path)
    parameters = parameters.model_copy(update={"classes": description.classes})
    store = Store.open(parameters.store)
    dataset, _ = prepare_dataset(parameters, store, home() / "spool", listeners, needed=(split,))
    with staged("evaluate", listeners) as stage:
        if dataset.digest != description.dataset_digest and (
            {*dataset.archives} & {*description.archives}
        ):
            stage.say(
                "it was trained on this archive, with other options: without the same --layout, "
                "photos are scored here that it was trained on"
            )
        folder = local_dataset(dataset, store, home() / "datasets", [split])
        score = evaluate_checkpoint(
            path,
            folder,
            split=split,
            device=parameters.device,
            window=window,
            flip=flip,
            report=stage.report,
        ).score
        stage.summary = f"mIoU {score.miou:.4f} on {score.images:,} images of {split}"
    return score
