"""Fetch-checkpoint: the best checkpoint that verifies comes home and is scored again.

Only what hashes to its manifest counts. The score must be training's own, which proves at once
that weights, dataset and code came home unharmed.
"""

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from infra.failure import Cause, Failure
from infra.protocol import run_key
from infra.stores import Store
from model.dataset import Dataset, Manifest
from model.recipe import Recipe
from pipeline.progress import Report, silent
from pipeline.stages.build_dataset import dataset_prefix

if TYPE_CHECKING:
    from model.checkpoint import CheckpointManifest
    from model.evaluate import Evaluation

# Two kinds of hardware round differently, which moves a pixel here and there.
_ROUNDING = 0.01


def fetch_checkpoint(run_id: str, store: Store, folder: Path) -> "CheckpointManifest":
    """Copy the best checkpoint of a run to `folder/checkpoint.pt`; damaged ones are passed over.

    Best is the highest validation mIoU, the newest of equals. Raises Failure(BAD_INPUT) when the
    run has no checkpoint, Failure(CORRUPT) when none verifies.
    """
    from model import checkpoint

    prefix = run_key(run_id, "checkpoints")
    found: list[tuple[CheckpointManifest, str]] = []
    for step in store.folders(prefix):
        data = store.get(f"{prefix}/{step}/{checkpoint.MANIFEST}")
        manifest = checkpoint.parse_manifest(data) if data else None
        if manifest and manifest.miou is not None:
            found.append((manifest, step))
    if not found:
        raise Failure(
            Cause.BAD_INPUT,
            f"Run {run_id} in {store.url} has no scored checkpoint; see `voc-train status`.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    for manifest, step in sorted(found, key=lambda one: (one[0].miou, one[0].step), reverse=True):
        if store.size(f"{prefix}/{step}/{checkpoint.BLOB}") != manifest.size:
            continue
        # Under `folder` only once it verifies: what lies there counts, the one before included.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as arriving:
            for name in (checkpoint.BLOB, checkpoint.MANIFEST):
                store.get_file(f"{prefix}/{step}/{name}", Path(arriving, name))
            if checkpoint.verified(Path(arriving)):
                for name in (checkpoint.BLOB, checkpoint.MANIFEST):
                    Path(arriving, name).replace(folder / name)
                return manifest
    raise Failure(
        Cause.CORRUPT,
        f"No checkpoint of run {run_id} has the sha256 that its manifest says; train again.",
    )


def evaluate_again(
    manifest: "CheckpointManifest",
    folder: Path,
    dataset: Path,
    *,
    device: str = "auto",
    report: Report = silent,
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
    same = here.model_copy(update={"threads": manifest.provenance.threads}) == manifest.provenance
    score, own = evaluation.score.miou, manifest.miou or 0.0
    if abs(score - own) > (0 if same else _ROUNDING):
        raise Failure(
            Cause.CORRUPT,
            f"The checkpoint of step {manifest.step} scores {score:.6f} here, but {own:.6f} in "
            "training; its weights or the dataset were harmed on the way.",
        )
    return evaluation


def must_pass_gate(recipe: Recipe, miou: float) -> None:
    """Raise Failure(BELOW_GATE) when the best mIoU is below what the recipe asks for."""
    if recipe.min_miou is not None and miou < recipe.min_miou:
        raise Failure(
            Cause.BELOW_GATE,
            f"The best mIoU, {miou:.4f}, is below the recipe's gate of {recipe.min_miou:g}: "
            "nothing was learned, or too little. Look at the report; the checkpoint was kept.",
        )


def local_dataset(dataset: Manifest, store: Store, cache: Path) -> Path:
    """The dataset as a folder on this computer, verified, and fetched where it is not here."""
    prefix = dataset_prefix(dataset.key)
    wanted = [(f"shards/{shard.name}", shard.sha256) for shard in dataset.shards]
    wanted.append(("index.jsonl", dataset.index_sha256))
    if (here := store.local_path(prefix)) is not None:
        for name, sha256 in wanted:
            _must_hash_to(here / name, sha256)
        return here
    folder = cache / dataset.key
    for name, sha256 in wanted:
        if not (folder / name).exists():  # it gets its name only when it is verified
            store.get_file(f"{prefix}/{name}", folder / name, sha256=sha256)
    store.get_file(f"{prefix}/manifest.json", folder / "manifest.json")
    return folder


def _must_hash_to(path: Path, sha256: str) -> None:
    try:
        with path.open("rb") as file:
            whole = hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        whole = False
    if not whole:
        raise Failure(
            Cause.CORRUPT,
            f"{path} is damaged: its sha256 is not the manifest's. Delete the dataset's folder and "
            "run again.",
        )
