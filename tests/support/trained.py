"""A small run from archive to checkpoint in this process, without Prefect and without an agent."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from infra.protocol import run_key
from infra.stores import Store
from model.checkpoint import CheckpointManifest
from model.manifest import Manifest
from model.train import train
from pipeline import preparation
from pipeline.dataset import dataset_prefix
from pipeline.parameters import Parameters
from pipeline.run import Run
from pipeline.run_record import Outcome
from pipeline.sample_archive import SAMPLE_CLASSES
from pipeline.stages.fetch_checkpoint import fetch_checkpoint
from pipeline.stages.train import job_for


class Trained(NamedTuple):
    store: Store
    checkpoint: Path  # the best, brought home
    manifest: CheckpointManifest
    outcome: Outcome


def trained_on(archive: Path, folder: Path, **settings: Any) -> Trained:
    """Train a narrow net by one thread; keeps a checkpoint of step 5 as well."""
    parameters = Parameters(
        archives=(str(archive),),
        recipe="tiny",
        overrides={"width": 4, "min_miou": None, **settings},
        classes=SAMPLE_CLASSES,
        store=str(folder / "store"),
        threads=1,
        keep_step=5,
    )
    run = Run(parameters, [])
    with run.recorded():
        dataset, archives = preparation.prepare_dataset(
            parameters, run.store, folder / "spool", [], needed=preparation.TO_TRAIN
        )
        run.prepared(dataset, {archive.sha256: archive.source for archive in archives})
        job = job_for(
            run.run_id, parameters.resolved_recipe(), dataset, run.store,
            device="cpu", workers=0, wandb="disabled", deadline_seconds=300,
        )  # fmt: skip
        run.store.write(run_key(run.run_id, "spec.json"), job)
        _train(folder / "job", run, dataset)
        manifest = fetch_checkpoint(run.run_id, run.store, folder)
        run.outcome = Outcome(
            run_id=run.run_id, checkpoint=str(folder / "checkpoint.pt"), sha256=manifest.sha256,
            weights_digest=manifest.weights_digest, miou=manifest.miou or 0.0, iou=manifest.iou,
            dice={}, report="", seconds={}, reused=(),
        )  # fmt: skip
    return Trained(run.store, folder / "checkpoint.pt", manifest, run.outcome)


def _train(job: Path, run: Run, dataset: Manifest) -> None:
    """What an agent does."""
    job.mkdir()
    (job / "recipe.json").write_text(run.parameters.resolved_recipe().model_dump_json())
    there = run.store.local_path(dataset_prefix(dataset.key))
    assert there
    (job / "dataset").symlink_to(there)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    assert train(job, run_id=run.run_id, device="cpu", keep_step=run.parameters.keep_step)
    torch.set_num_threads(before)
    for path in (job / "out" / "checkpoints").rglob("*.*"):
        run.store.put_file(run_key(run.run_id, str(path.relative_to(job / "out"))), path)
