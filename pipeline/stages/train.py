"""Train: put the job into the store, have a machine's agent run it, and follow until its result.

The machine may be this computer: the protocol is the same. The controller only watches; an agent
whose controller is gone finishes all the same.
"""

import contextlib
import time
from collections.abc import Callable
from typing import Any

from infra.clock import Clock
from infra.failure import Cause, Failure
from infra.lease import Patience
from infra.log import LogReader
from infra.machines import Machine
from infra.protocol import Heartbeat, Input, JobSpec, OnDemand, Result, run_key
from infra.stores import Store
from model.manifest import Manifest
from model.recipe import Recipe
from model.stream import room_of
from pipeline.dataset import dataset_prefix
from pipeline.progress import Progress, silent

_POLL, _POLL_AFAR = 0.5, 2.0  # seconds between two looks at the store; at one that is not here
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
    weights_url: str | None = None,
    threads: int | None = None,
    ranks: int | None = None,
    keep_step: int | None = None,
) -> JobSpec:
    """The training of `recipe` on `dataset` as a job for an agent.

    `ranks` processes share each batch, or as many as the machine has GPUs.
    """
    prefix = dataset_prefix(dataset.key)
    size = store.size(f"{prefix}/index.jsonl")
    if size is None or store.size(f"{prefix}/manifest.json") is None:
        raise Failure(Cause.CORRUPT, f"{prefix} is no longer in {store.url}; run again.")
    index = Input(
        key=f"{prefix}/index.jsonl",
        path="dataset/index.jsonl",
        size=size,
        sha256=dataset.index_sha256,
    )
    shards = shard_inputs(dataset, f"{prefix}/shards")
    room = room_of(recipe)
    return JobSpec(
        run_id=run_id,
        argv=(
            *("python", "-m", "model.train", ".", "--run-id", run_id),
            *("--device", device, "--wandb", wandb),
            *(() if workers is None else ("--workers", str(workers))),
            *(() if weights_url is None else ("--weights-url", weights_url)),
            *(() if threads is None else ("--threads", str(threads))),
            *(() if ranks is None else ("--ranks", str(ranks))),
            *(() if keep_step is None else ("--keep-step", str(keep_step))),
        ),
        inputs=(index,) if room else (index, *shards),
        on_demand=OnDemand(inputs=shards, room=room) if room else OnDemand(),
        files={
            "recipe.json": recipe.model_dump_json(indent=1),
            "dataset/manifest.json": dataset.model_dump_json(indent=1),
        },
        deadline_seconds=deadline_seconds,
    )


def shard_inputs(dataset: Manifest, folder: str) -> tuple[Input, ...]:
    """The shards, which lie in `folder` of a store, at their places in the job's."""
    return tuple(
        Input(
            key=f"{folder}/{shard.name}",
            path=f"dataset/shards/{shard.name}",
            size=shard.size,
            sha256=shard.sha256,
        )
        for shard in dataset.shards
    )


def train(
    job: JobSpec,
    store: Store,
    machine: Machine,
    *,
    begun: bool = False,
    clock: Clock = Clock(),  # noqa: B008  # frozen
    patience: Patience = Patience(),  # noqa: B008
    report: Progress = silent,
    say: Callable[[str], None] = print,
    must_hold: Callable[[], None] = lambda: None,
) -> Result:
    """Run `job` on `machine` and return its result; raises Failure with the job's cause.

    Where it is `begun` it was started by an earlier controller, and is only followed to its end.
    However this ends, nothing of the job is left running on the machine, unless `must_hold` raises
    Failure(CLAIMED): then another controller follows it by now, and nothing is begun here.
    """
    if not begun:
        must_hold()  # else the order and the result that are there may be another controller's
    # What was said already was said by an earlier attempt; of one that has begun we say all.
    log = LogReader(store, job.run_id, from_now=not begun)
    hurry = anothers = False
    try:
        if not begun:
            _start(job, store, machine)
        try:
            follower = _Follower(job, store, machine, clock, patience, report, say, log)
            result = follower.follow()
        except BaseException as error:
            anothers = _is_anothers(must_hold)
            # One that was silent for so long will not say anything now, and the hours go on.
            hurry = isinstance(error, Failure) and error.cause is Cause.STALLED
            if not anothers and not hurry and machine.state() != "gone":
                say("stopping; the job may store a checkpoint first")
            raise
    finally:
        if not anothers:
            machine.stop(hurry=hurry)
            with contextlib.suppress(Failure):  # the first failure is the one to hear of
                if store.get(run_key(job.run_id, "result.json")):
                    machine.clean()
    if result.cause is not None:
        raise Failure(result.cause, result.message)
    return result


def _is_anothers(must_hold: Callable[[], None]) -> bool:
    """Whether another controller drives the run; where the store cannot say so, nobody does."""
    try:
        must_hold()
    except Failure as failure:
        return failure.cause is Cause.CLAIMED
    return False


def _start(job: JobSpec, store: Store, machine: Machine) -> None:
    machine.stop()  # what an earlier controller left at work; it may store a checkpoint first
    for name in ("result.json", "heartbeat.json"):  # an earlier attempt's
        store.delete(run_key(job.run_id, name))
    store.write(run_key(job.run_id, "spec.json"), job)
    machine.start(store, job.run_id)


class _Follower:
    """Watches a job through the store, live, until its result or until it must be given up."""

    def __init__(
        self,
        job: JobSpec,
        store: Store,
        machine: Machine,
        clock: Clock,
        patience: Patience,
        report: Progress,
        say: Callable[[str], None],
        log: LogReader,
    ) -> None:
        self._run_id = job.run_id
        # The agent ends the job in time; this is for one that does not.
        self._give_up = clock.monotonic() + job.deadline_seconds * clock.speed + patience.late
        self._store = store
        self._machine = machine
        self._clock = clock
        self._patience = patience
        self._report = report
        self._say = say
        self._pause = _POLL_AFAR if store.local_path("") is None else _POLL
        self._log = log
        self._beat: Heartbeat | None = None
        self._heard = clock.monotonic()  # when the beat last changed, by this computer's clock

    def follow(self) -> Result:
        """The job's result. Raises Failure(AGENT_LOST), (STALLED), or (STORE) when it is away."""
        seen = time.monotonic()  # when the store last answered
        while True:
            # Asked before the store is read, so that words written just before the end are read.
            state = self._machine.state()
            try:
                result = self._look()
            except Failure:
                if state == "gone" or time.monotonic() > seen + _STORE_PATIENCE:
                    raise
                time.sleep(self._pause)
                continue
            seen = time.monotonic()
            if result or (state == "gone" and (result := self._machine.unsent_result())):
                return result
            if state == "gone":
                raise Failure(
                    Cause.AGENT_LOST,
                    f"The agent of run {self._run_id} ended without a result "
                    f"({self._machine.last_words()}); start the run again.",
                )
            if unsent := self._must_go_on():
                return unsent
            time.sleep(self._pause)

    def _look(self) -> Result | None:
        beat = self._store.read_whole(run_key(self._run_id, "heartbeat.json"), Heartbeat)
        result = self._store.read_whole(run_key(self._run_id, "result.json"), Result)
        # Read after the result, so that with one it is the whole log.
        lines = self._log.new_lines(last=result is not None)
        if beat and beat != self._beat:
            self._beat, self._heard = beat, self._clock.monotonic()
            if total := beat.progress.get("total_steps"):
                self._report(beat.progress.get("step", 0), total, _in_words(beat.progress))
        for line in lines:
            self._say(line)
        return result

    def _must_go_on(self) -> Result | None:
        """Raise Failure for a job that is silent or late, unless its agent says how it ended.

        Whose clock is right does not matter: only whether the beat changes.
        """
        silence = self._clock.monotonic() - self._heard
        late = self._clock.monotonic() > self._give_up
        if not late and silence <= (
            self._patience.stall if self._beat else self._patience.heartbeat
        ):
            return None
        if unsent := self._machine.unsent_result():
            return unsent
        where, said = self._machine.where, self._machine.last_words()
        if late:
            raise Failure(
                Cause.DEADLINE, f"The job on {where} did not end at its time limit ({said})."
            )
        raise Failure(
            Cause.STALLED,
            f"Nothing was heard from {where} for {silence / 60:.0f} minutes ({said}); start the "
            "run again.",
        )


def _in_words(progress: dict[str, Any]) -> str:
    """What a person wants to see of a job's `progress.json`."""
    said = []
    if (loss := progress.get("loss")) is not None:
        said.append(f"loss {loss:.2f}")
    said.append(f"{progress.get('step', 0):,}/{progress['total_steps']:,}")
    if speed := progress.get("images_per_second"):
        said.append(f"{speed:.0f} images/s")
    return "  ".join(said)  # what counts most first: a narrow terminal cuts the end
