"""How runs stand, as the store knows it."""

import json
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from infra.failure import Cause, Failure
from infra.protocol import Heartbeat, Result, now, read, run_key
from infra.stores import Store
from pipeline.run import RunRecord, recorded_runs

_SILENT_AFTER = 120.0  # seconds without a heartbeat after which no job can be at work
_SILENT_AT_LEAST = 12 * 3600.0  # the same where nothing beats: before and after training


def state_of(record: RunRecord, heartbeat: Heartbeat | None, time: datetime) -> str:
    """How a run stands: a run that calls itself running, but that nobody has heard of, is silent.

    Its controller was killed; the agent may have finished all the same, which `fetch` tells.
    """
    heard = heartbeat.time if heartbeat else record.started
    # Only a job at work beats; preparing and scoring may take their time.
    at_work = heartbeat is not None and heartbeat.state != "finishing"
    patience = _SILENT_AFTER if at_work else _SILENT_AT_LEAST
    if record.state == "running" and (time - heard).total_seconds() > patience:
        return "silent"
    return record.state


def one_run(store: Store, run_id: str) -> dict[str, Any]:
    """Everything the store knows of one run; Failure(BAD_INPUT) when it knows nothing."""
    record = read(store, run_key(run_id, "run.json"), RunRecord)
    if record is None:
        raise Failure(
            Cause.BAD_INPUT, f"There is no run {run_id!r} in {store.url}; see `voc-train status`."
        )
    heartbeat = _heartbeat(store, run_id)
    result = read(store, run_key(run_id, "result.json"), Result)
    return {
        **record.model_dump(mode="json"),
        "state": state_of(record, heartbeat, now()),
        "heartbeat": heartbeat.model_dump(mode="json") if heartbeat else None,
        "result": result.model_dump(mode="json") if result else None,
        "checkpoints": list(store.folders(run_key(run_id, "checkpoints"))),
    }


def print_all(store: Store, *, as_json: bool) -> None:
    """A table of all runs, newest first."""
    records = [
        record.model_copy(update={"state": _state_in(store, record)})
        for record in recorded_runs(store)
    ]
    if as_json:
        print(json.dumps([record.model_dump(mode="json") for record in records]))
        return
    if not records:
        print(f"No runs in {store.url} yet.")
        return
    table = Table("run", "started", "recipe", "state", "mIoU", "cause", box=None, pad_edge=False)
    for record in records:
        table.add_row(
            record.run_id,
            f"{record.started.astimezone():%Y-%m-%d %H:%M}",
            record.parameters.get("recipe", ""),
            record.state,
            f"{record.outcome.miou:.4f}" if record.outcome else "",
            record.cause or "",
        )
    Console(highlight=False).print(table)


def _state_in(store: Store, record: RunRecord) -> str:
    if record.state != "running":  # the heartbeat of a run that ended tells nothing
        return record.state
    return state_of(record, _heartbeat(store, record.run_id), now())


def _heartbeat(store: Store, run_id: str) -> Heartbeat | None:
    """The last heartbeat; a damaged one tells as much as none."""
    try:
        return read(store, run_key(run_id, "heartbeat.json"), Heartbeat)
    except Failure as failure:
        if failure.cause is not Cause.CORRUPT:
            raise
        return None


def print_one(run: dict[str, Any], *, as_json: bool) -> None:
    """One run in detail."""
    if as_json:
        print(json.dumps(run))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{run['run_id']}[/]  {run['parameters']['recipe']}, {run['state']}")
    if run["cause"]:
        console.print(f"{run['cause']}: {run['message']}", markup=False)
    for stage in run["stages"]:
        mark = "reused" if stage["reused"] else f"{stage['seconds']:.1f} s"
        console.print(f"  {stage['name']:<17}{mark:>8}  {stage['summary']}", markup=False)
    if run["state"] == "running" and run["heartbeat"]:
        progress = run["heartbeat"]["progress"]
        if "step" in progress:
            console.print(f"  step {progress['step']} of {progress['total_steps']}")
    if run["outcome"]:
        console.print(f"mIoU {run['outcome']['miou']:.4f}")
        console.print(f"checkpoint  {run['outcome']['checkpoint']}", markup=False)
        console.print(f"report      {run['outcome']['report']}", markup=False)
