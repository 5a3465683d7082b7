"""The learning-rate range test on archives: the first three stages, then the model's own."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from infra.failure import Cause, Failure
from infra.stores import Store
from pipeline.dataset import local_dataset
from pipeline.parameters import Parameters, home
from pipeline.preparation import TO_TRAIN, must_be_trainable, prepare_dataset
from pipeline.progress import Listener
from pipeline.run import staged

if TYPE_CHECKING:
    from model.learning_rates import LearningRates


def find_lr_on_archives(
    parameters: Parameters,
    listeners: Sequence[Listener],
    *,
    low: float,
    high: float,
    steps: int,
    plot: Path,
) -> "LearningRates":
    """Train the recipe on this computer while its rate rises; the plot is the only thing kept."""
    import torch

    from model import failures
    from model.device import default_threads, default_workers
    from model.job import Job
    from model.lr_find import find_lr, must_be_range, save_plot

    must_be_range(low, high, steps)  # rather now than after an hour of preparation
    must_be_trainable(parameters)
    torch.set_num_threads(default_threads())
    store = Store.open(parameters.store)
    dataset, _ = prepare_dataset(parameters, store, home() / "spool", listeners, needed=TO_TRAIN)
    with (
        staged("lr-find", listeners) as stage,
        tempfile.TemporaryDirectory(prefix="voc-train-") as folder,
    ):
        recipe, job = parameters.resolved_recipe(), Path(folder)
        (job / "recipe.json").write_text(recipe.model_dump_json())
        (job / "dataset").symlink_to(local_dataset(dataset, store, home() / "datasets"))
        workers = default_workers() if parameters.workers is None else parameters.workers
        try:
            found = find_lr(
                Job.open(job, "lr-find", parameters.device),
                low=low,
                high=high,
                steps=steps,
                workers=workers,
                report=stage.report,
            )
        except Exception as error:
            cause, message = failures.explain(job, error)
            # Only the traceback of what nobody foresaw is ever written there, and not for long.
            if (job / "out").exists():
                raise
            raise Failure(Cause(cause), message) from None
        save_plot(found, f"{recipe.name}: learning-rate range test", plot)
        sure = "" if found.clear else ", unsure"
        stage.summary = f"lr={found.steepest:.1e} from {len(found.rates)} steps{sure}"
    return found
