"""Prepare: the first three stages as one job, on a machine rented for it.

Archives on this computer go there first: into the bucket, or beside the store on the machine.
"""

import json
from collections.abc import Callable
from pathlib import Path

from infra.failure import Cause, Failure
from infra.protocol import JobSpec, run_key
from infra.stores import Store
from model.manifest import Manifest
from pipeline.archive import local_tar
from pipeline.dataset import dataset_prefix
from pipeline.download.spool import Room
from pipeline.parameters import Parameters
from pipeline.prepare import Prepared
from pipeline.progress import Progress, silent
from pipeline.stages.extract import extract
from pipeline.stages.train import train
from pipeline.tenancy import Workplace


def prepare_there(
    run_id: str,
    parameters: Parameters,
    place: Workplace,
    archives: tuple[str, ...],
    *,
    report: Progress = silent,
    say: Callable[[str], None] = print,
) -> tuple[Manifest, Prepared]:
    """Build the dataset on a machine, from `archives` as it sees them; returns its manifest.

    Raises Failure with the job's cause.
    """
    job_id = f"{run_id}-prepare"
    there = parameters.model_dump(mode="json", exclude={"rental", "machine", "store"})
    spec = JobSpec(
        run_id=job_id,
        argv=("python", "-m", "pipeline.prepare", "parameters.json"),
        files={"parameters.json": json.dumps(there | {"archives": archives})},
        deadline_seconds=place.seconds,
        uses_store=True,
    )
    train(
        spec,
        place.store,
        place.machine,
        clock=place.clock,
        patience=place.patience,
        report=report,
        say=say,
    )
    prepared = place.store.read(run_key(job_id, "prepared.json"), Prepared)
    if prepared:
        key = f"{dataset_prefix(prepared.dataset)}/manifest.json"
        if manifest := place.store.read(key, Manifest):
            return manifest, prepared
    raise Failure(Cause.CORRUPT, "The preparation ended well, but left no dataset; run again.")


def archives_in_store(
    parameters: Parameters, store: Store, spool: Path, *, report: Progress = silent
) -> tuple[str, ...]:
    """The archives as a machine that sees the store can read them: this computer's are put there.

    What is downloaded is left to the machine, which has the better line.
    """
    room = Room(parameters.limits.archive_bytes)
    urls = []
    for url in parameters.archives:
        if "://" in url:
            urls.append(url)
            continue
        archive, _ = extract(url, store, spool, room=room, report=report)
        if archive.location != "store":  # a store that is a folder only points at it
            store.put_file(archive.tar_key, local_tar(archive, store, spool))
        there = store.local_path(archive.tar_key)
        urls.append(str(there) if there else f"{store.url}/{archive.tar_key}")
    return tuple(urls)
