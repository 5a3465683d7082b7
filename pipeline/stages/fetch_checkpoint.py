"""Fetch-checkpoint: the best checkpoint that verifies comes home and is scored again.

Only what hashes to its manifest counts. The score must be training's own, which proves at once
that weights, dataset and code came home unharmed.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from infra.failure import Cause, Failure
from infra.protocol import run_key
from infra.stores import Store
from model.dataset import Dataset
from model.recipe import Recipe
from pipeline.progress import Progress, silent

if TYPE_CHECKING:
    from model.checkpoint import CheckpointManifest
    from model.evaluate import Evaluation

# Two kinds of hardware round differently, which moves a pixel here and there.
_ROUNDING = 0.01


def fetch_checkpoint(run_id: str, store: Store, folder: Path) -> "CheckpointManifest":
    """Copy the best checkpoint of a run to `folder/checkpoint.pt`; damaged ones are passed over.

    Of a run that was stopped before its first validation it is the newest. Raises
    Failure(BAD_INPUT) when the run has no checkpoint, which says why, Failure(CORRUPT) when none
    verifies.
    """
    from model import checkpoint

    prefix = run_key(run_id, "checkpoints")
    found: dict[str, CheckpointManifest] = {}
    for step in store.folders(prefix):
        data = store.get(f"{prefix}/{step}/{checkpoint.MANIFEST}")
        if data and (manifest := checkpoint.parse_manifest(data)):
            found[step] = manifest
    if not found:
        raise Failure(Cause.BAD_INPUT, _why_there_is_none(run_id, store))
    best_first = checkpoint.best_first(found)
    unscored = sorted(found.keys() - set(best_first), reverse=True)
    folder.mkdir(parents=True, exist_ok=True)
    for step in (*best_first, *unscored):
        if store.size(f"{prefix}/{step}/{checkpoint.BLOB}") != found[step].size:
            continue
        # Under `folder` only once it verifies: what lies there counts, the one before included.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as arriving:
            for name in (checkpoint.BLOB, checkpoint.MANIFEST):
                store.get_file(f"{prefix}/{step}/{name}", Path(arriving, name))
            if checkpoint.verified(Path(arriving)):
                for name in (checkpoint.BLOB, checkpoint.MANIFEST):
                    Path(arriving, name).replace(folder / name)
                return found[step]
    raise Failure(
        Cause.CORRUPT,
        f"No checkpoint of run {run_id} has the sha256 that its manifest says; train again.",
    )


def _why_there_is_none(run_id: str, store: Store) -> str:
    """And what to do about it, in a sentence."""
    from pipeline.pruned import pruned
    from pipeline.run_record import RunRecord

    record = store.read_whole(run_key(run_id, "run.json"), RunRecord)
    if record is None:
        return f"There is no checkpoint of a run {run_id} in {store.url}; see `voc-train status`."
    if record.unchanged:
        return (
            f"Run {run_id} trained nothing: {record.unchanged.said}. `voc-train fetch "
            f"{record.unchanged.trained_by}` brings that one's checkpoint."
        )
    if record.trials:
        return (
            f"Run {run_id} is a sweep: each of its settings is a run with a checkpoint, as "
            f"`voc-train status {run_id}` shows."
        )
    if gone := pruned(store, run_id):
        made = f", or take the copy at {record.outcome.checkpoint}" if record.outcome else ""
        return (
            f"Run {run_id} was {gone.said}. Train it again, with the parameters that `voc-train "
            f"status {run_id} --json` shows{made}."
        )
    return (
        f"Run {run_id} has no checkpoint in {store.url} yet; `voc-train status {run_id}` shows how "
        "it stands."
    )


def evaluate_again(
    manifest: "CheckpointManifest",
    folder: Path,
    dataset: Path,
    *,
    device: str = "auto",
    report: Progress = silent,
) -> "Evaluation":
    """Score the fetched checkpoint on the whole validation set, and hold it against its own.

    Raises Failure(CORRUPT) when the scores differ by more than the hardware explains: not at all
    on the same computer with the same libraries.
    """
    from model import checkpoint
    from model.device import pick_device, pick_precision
    from model.evaluate import evaluate_checkpoint, spread
    from model.provenance import provenance

    keep = spread(len(Dataset(dataset, "val")))
    evaluation = evaluate_checkpoint(
        folder / checkpoint.BLOB, dataset, device=device, keep=keep, report=report
    )
    where = pick_device(device)
    here = provenance(where, pick_precision(manifest.recipe.precision, where))
    made = manifest.provenance
    same = here.model_copy(update={"threads": made.threads, "ranks": made.ranks}) == made
    score, own = evaluation.score.miou, manifest.miou or 0.0
    if abs(score - own) > (0 if same else _ROUNDING):
        raise Failure(
            Cause.CORRUPT,
            f"The checkpoint of step {manifest.step} scores {score:.6f} here, but {own:.6f} in "
            "training; its weights or the dataset were harmed on the way.",
        )
    return evaluation


def must_pass_gate(recipe: Recipe, miou: float, report: str) -> None:
    """Raise Failure(BELOW_GATE) when the best mIoU is below what the recipe asks for."""
    if recipe.min_miou is not None and miou < recipe.min_miou:
        raise Failure(
            Cause.BELOW_GATE,
            f"The best mIoU, {miou:.4f}, is below the recipe's gate of {recipe.min_miou:g}: "
            f"nothing was learned, or too little. Look at {report}; the checkpoint lies beside it.",
        )
