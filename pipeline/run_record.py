"""What the controller writes of a run to `runs/<run>/run.json`, and how it is read again."""

import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from infra.concurrently import concurrently
from infra.failure import Cause, Failure
from infra.protocol import Result, run_key
from infra.stores import Store
from pipeline.inputs import Inputs

WrittenState = Literal["running", "done", "unchanged", "failed"]


class StageRecord(BaseModel):
    """One stage of a run, finished."""

    model_config = ConfigDict(frozen=True)

    name: str
    seconds: float
    reused: bool
    summary: str


class Trial(BaseModel):
    """One combination of a sweep's settings, and the run that trains it."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    settings: dict[str, str]  # those that differ between trials, as typed


class RunRecord(BaseModel):
    """What the controller writes to `runs/<run>/run.json`, at the start and at the end."""

    run_id: str
    state: WrittenState
    started: datetime
    ended: datetime | None = None
    parameters: dict[str, Any]  # as they were: a record outlives the code that wrote it
    stages: tuple[StageRecord, ...] = ()
    dataset: str | None = None  # once it is in the store
    sources: dict[str, str] = {}  # of it, archives: sha256 to where they came from
    inputs: Inputs | None = None  # once the dataset is known
    commit: str = ""  # of the code, "+" where it was changed; empty where nobody knows
    cause: Cause | None = None
    message: str = ""
    outcome: "Outcome | None" = None
    unchanged: "Unchanged | None" = None
    trials: tuple[Trial, ...] = ()  # of a sweep, which has no checkpoint of its own


class Outcome(BaseModel):
    """What a run that reached its checkpoint has to show; `--json` prints it."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    checkpoint: str  # path of the verified checkpoint on this computer
    sha256: str
    weights_digest: str
    miou: float
    iou: dict[str, float | None]  # by class
    dice: dict[str, float | None]
    report: str  # path of the report on this computer
    seconds: dict[str, float]  # by stage
    reused: tuple[str, ...]  # stages whose result was there already
    decision: str | None = None  # promoted or refused, where a champion was asked for
    decision_said: str = ""


class Unchanged(BaseModel):
    """Why a run that was to train only if something has changed did not."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    trained_by: str  # the run that was made from the same
    decision: str  # what became of its checkpoint: promoted, refused, rolled-back
    decided: datetime
    compared: str  # in words

    @property
    def said(self) -> str:
        """A sentence for people."""
        return (
            f"nothing has changed since run {self.trained_by}, {self.decision} on "
            f"{self.decided:%Y-%m-%d}; compared: {self.compared}"
        )


def recorded_run(store: Store, run_id: str) -> RunRecord:
    """What the store knows of a run; Failure(BAD_INPUT) when it knows nothing.

    Failure(CORRUPT) where it is the record of another one: what it names is made and deleted.
    """
    record = _read(store, run_id)
    if record is None:
        raise Failure(
            Cause.BAD_INPUT, f"There is no run {run_id!r} in {store.url}; see `voc-train status`."
        )
    return record


def _read(store: Store, run_id: str) -> RunRecord | None:
    key = run_key(run_id, "run.json")
    record = store.read(key, RunRecord)
    if record and record.run_id != run_id:
        raise Failure(
            Cause.CORRUPT,
            f"{key} in {store.url} is not the record of run {run_id}: it names {record.run_id!r}. "
            "Delete it there, and start another run.",
        )
    return record


def is_trained(store: Store, run_id: str) -> bool:
    """Whether the run's training has ended well, wherever its checkpoint is by now."""
    result = store.read_whole(run_key(run_id, "result.json"), Result)
    return result is not None and result.cause is None


def recorded_metrics(store: Store, run_id: str) -> list[dict[str, Any]]:
    """What training logged, as it lies in the store, less any line that is damaged."""
    data = store.get(run_key(run_id, "metrics.jsonl")) or b""
    records = []
    for line in data.splitlines():
        with suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict):
                records.append(record)
    return records


def recorded_runs(store: Store, runs: Sequence[str] | None = None) -> list[RunRecord]:
    """Every run in the store, or every one of these, whose record can be read; newest first."""

    def read(run_id: str) -> RunRecord | None:
        try:
            return _read(store, run_id)
        except Failure as failure:
            if failure.cause is not Cause.CORRUPT:
                raise
            logging.getLogger(__name__).warning("%s", failure)  # one bad record hides no other
            return None

    found = concurrently(read, store.folders("runs") if runs is None else runs)
    return sorted(filter(None, found), key=lambda record: record.started, reverse=True)
