"""Train: put the job into the store, have a machine's agent run it, and follow until its result.

The machine may be this computer: the protocol is the same. The controller only watches; an agent
whose controller is gone finishes all the same.
"""

import contextlib
import time
from collections.abc import Callable
from typing import Any

from infra.failure import Cause, Failure
from infra.log import LogReader
from infra.machines import LocalMachine
from infra.protocol import Heartbeat, Input, JobSpec, Result, run_key
from infra.stores import Store
from model.dataset import Manifest
from model.recipe import Recipe
from pipeline.dataset import dataset_prefix
from pipeline.progress import Progress, silent

_POLL = 0.5  # seconds between two looks at the store
_STORE_PATIENCE = 600.0  # seconds that the store may be away: training goes on without it


def job_for(
    run_id: str,
    recipe: Recipe,
    dataset: Manifest,
    store: Store,
    *,
    device: str,
    workers: int | None,
    wandb: str,
    deadline_seconds: float,
) -> JobSpec:
    """The training of `recipe` on `dataset` as a job for an agent."""
    prefix = dataset_prefix(dataset.key)
    manifest = store.get(f"{prefix}/manifest.json")
    size = store.size(f"{prefix}/index.jsonl")
    if manifest is None or size is None:
        raise Failure(Cause.CORRUPT, f"{prefix} is no longer in {store.url}; run again.")
    index = Input(
        key=f"{prefix}/index.jsonl",
        path="dataset/index.jsonl",
        size=size,
        sha256=dataset.index_sha256,
    )
    shards = (
        Input(
            key=f"{prefix}/shards/{shard.name}",
            path=f"dataset/shards/{shard.name}",
            size=shard.size,
            sha256=shard.sha256,
        )
        for shard in dataset.shards
    )
    return JobSpec(
        run_id=run_id,
        argv=(
            *("python", "-m", "model.train", ".", "--run-id", run_id),
            *("--device", device, "--wandb", wandb),
            *(() if workers is None else ("--workers", str(workers))),
        ),
        inputs=(index, *shards),
        files={
            "recipe.json": recipe.model_dump_json(indent=1),
            "dataset/manifest.json": manifest.decode(),
        },
        deadline_seconds=deadline_seconds,
    )


def train(
    job: JobSpec,
    store: Store,
    machine: LocalMachine,
    *,
    report: Progress = silent,
    say: Callable[[str], None] = print,
) -> Result:
    """Run `job` on `machine` and return its result; raises Failure with the job's cause.

    However this ends, nothing of the job is left running on the machine.
    """
    store.delete(run_key(job.run_id, "result.json"))  # an earlier attempt's
    store.write(run_key(job.run_id, "spec.json"), job)
    try:
        machine.start(store, job.run_id)
        try:
            result = _follow(job.run_id, store, machine, report, say)
        except BaseException:
            if machine.alive():
                say("stopping; the job may store a checkpoint first")
            raise
    finally:
        machine.stop()
        with contextlib.suppress(Failure):  # the first failure is the one to hear of
            if store.get(run_key(job.run_id, "result.json")):
                machine.clean()
    if result.cause is not None:
        raise Failure(result.cause, result.message)
    return result


def _follow(
    run_id: str,
    store: Store,
    machine: LocalMachine,
    report: Progress,
    say: Callable[[str], None],
) -> Result:
    log = LogReader(store, run_id)
    seen = time.monotonic()  # when the store last answered
    while True:
        # Asked before the store is read, so that words written just before the end are not missed.
        alive = machine.alive()
        try:
            heartbeat = store.read(run_key(run_id, "heartbeat.json"), Heartbeat)
            result = store.read(run_key(run_id, "result.json"), Result)
            # Read after the result, so that with one it is the whole log.
            lines = log.new_lines(last=result is not None)
        except Failure:
            if not alive or time.monotonic() > seen + _STORE_PATIENCE:
                raise
            time.sleep(_POLL)
            continue
        seen = time.monotonic()
        if heartbeat and (total := heartbeat.progress.get("total_steps")):
            report(heartbeat.progress.get("step", 0), total, _in_words(heartbeat.progress))
        for line in lines:
            say(line)
        if result or (not alive and (result := machine.unsent_result())):
            return result
        if not alive:
            raise Failure(
                Cause.AGENT_LOST,
                f"The agent of run {run_id} ended without a result ({machine.last_words()}); "
                "start the run again.",
            )
        time.sleep(_POLL)


def _in_words(progress: dict[str, Any]) -> str:
    """What a person wants to see of a job's `progress.json`."""
    said = []
    if (loss := progress.get("loss")) is not None:
        said.append(f"loss {loss:.2f}")
    said.append(f"{progress.get('step', 0):,}/{progress['total_steps']:,}")
    if speed := progress.get("images_per_second"):
        said.append(f"{speed:.0f} images/s")
    return "  ".join(said)  # what counts most first: a narrow terminal cuts the end
