"""Batches of a dataset whose shards come from a store, through a tenth of its room on the disk."""

from collections.abc import Iterator
from pathlib import Path

from infra.on_demand import Supplier
from infra.stores import Store
from model.job import Job
from model.loader import training_batches
from model.recipes import named
from pairs import Row
from pipeline.parameters import Limits, Parameters
from pipeline.preparation import TO_TRAIN, prepare_dataset
from pipeline.sample_archive import SAMPLE_CLASSES, write_sample_archive
from pipeline.stages.train import job_for

_PHOTOS, _SIDE = 1200, 320


def rows(folder: Path) -> Iterator[Row]:
    """An epoch, with one loader process and a store in a folder; the order is the same."""
    archive = folder / "stream.tar"
    write_sample_archive(archive, train=_PHOTOS, val=8, unlabelled=0, size=_SIDE)
    store = Store.open(str(folder / "stream-store"))
    parameters = Parameters(
        archives=(str(archive),),
        classes=SAMPLE_CLASSES,
        store=store.url,
        limits=Limits(shard_mb=1),
    )
    dataset, _ = prepare_dataset(parameters, store, folder / "spool", (), needed=TO_TRAIN)
    room = sum(one.size for one in dataset.shards) / 10
    recipe = named("tiny").override({"stream_gb": room / 1e9, "epochs": 1, "batch_size": 16})
    spec = job_for(
        *("bench", recipe, dataset, store),
        device="cpu",
        workers=1,
        wandb="disabled",
        deadline_seconds=600,
    )
    jobs = folder / "streamed", folder / "local"
    for job in jobs:
        for name, text in spec.files.items():
            (job / name).parent.mkdir(parents=True, exist_ok=True)
            (job / name).write_text(text)
        for one in (*spec.inputs, *spec.on_demand.inputs):
            store.get_file(one.key, job / one.path)

    def epoch(job: Path) -> None:
        opened = Job.open(job, "bench", "cpu")
        for _ in training_batches(opened.train, recipe, opened.order, 1):
            pass

    def streamed() -> None:
        with Supplier(store, jobs[0], spec.on_demand, _give_up, (0.0, 0.0)):
            epoch(jobs[0])

    what = f"loader, {len(dataset.shards)} shards through {room / 1e6:.1f} MB of disk"
    against = "all of them on the disk"
    yield Row(what, against, "times as fast", 0.8, streamed, lambda: epoch(jobs[1]))


def _give_up(failure: Exception) -> None:
    raise failure
