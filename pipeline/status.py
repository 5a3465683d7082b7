"""How a run stands, as the store knows it."""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from infra.clock import Clock
from infra.costs import costs_of_notes
from infra.intents import Intent, Intents
from infra.protocol import Heartbeat, Result, now, run_key
from infra.reaper_report import last_look
from infra.stores import Store
from pipeline.console import harmless
from pipeline.pruned import Pruned, pruned
from pipeline.run_record import RunRecord, WrittenState, recorded_run

_SILENT_AFTER = 120.0  # seconds without a beat after which agent and controller are taken for dead
_SILENT_AT_LEAST = 12 * 3600.0  # the same where nothing ever beat


State = Literal[WrittenState, "trained", "silent"]


def state_of(
    record: RunRecord,
    heartbeat: Heartbeat | None,
    result: Result | None,
    time: datetime,
    claimed: datetime | None = None,
) -> State:
    """How a run stands: as its controller wrote it, or as the agent knows better.

    A run whose job is done but that is not yet scored is trained: its controller is at it, or was
    killed. One that nobody has heard of for long is silent. `claimed` is when its controller last
    renewed its claim, as it does while it prepares, waits for its turn or rents another machine.
    """
    if record.state != "running":
        return record.state
    driven = claimed is not None and (time - claimed).total_seconds() <= _SILENT_AFTER
    if result is not None and result.cause is None:
        return "trained"
    if driven:  # what failed was an earlier attempt
        return "running"
    if result is not None:
        return "failed"
    heard = heartbeat.time if heartbeat else claimed
    patience = _SILENT_AFTER if heard else _SILENT_AT_LEAST
    return "silent" if (time - (heard or record.started)).total_seconds() > patience else "running"


def one_run(store: Store, run_id: str) -> dict[str, Any]:
    """Everything the store knows of one run; Failure(BAD_INPUT) when it knows nothing."""
    record = recorded_run(store, run_id)
    heartbeat = store.read_whole(run_key(run_id, "heartbeat.json"), Heartbeat)
    result = store.read_whole(run_key(run_id, "result.json"), Result)
    checkpoints = list(store.folders(run_key(run_id, "checkpoints")))
    gone = None if checkpoints else pruned(store, run_id)
    rented = Intents.load(store, run_id).entries()
    costs = costs_of_notes(run_id, rented, last_look(store))
    there = {(rent.kind, rent.label) for rent in costs.there} if costs else set()
    still = [e.intent for e in rented if (e.intent.kind, e.intent.label) in there]
    return {
        **record.model_dump(mode="json"),
        "state": state_of(record, heartbeat, result, now(), _claimed(store, record)),
        "heartbeat": heartbeat.model_dump(mode="json") if heartbeat else None,
        "result": result.model_dump(mode="json") if result else None,
        "checkpoints": checkpoints,
        "pruned": gone.model_dump(mode="json") if gone else None,
        "dollars": costs.dollars(Clock.from_environment().now()) if costs else None,
        "comparison": _comparison(store, record) if record.trials else None,
        "costs_still": [intent.model_dump(mode="json") for intent in still],
    }


def _comparison(store: Store, record: RunRecord) -> dict[str, Any]:
    """How the settings of a sweep compare; no other run's status needs what it takes to know."""
    from pipeline.sweep import compare

    return compare(store, record).model_dump(mode="json")


def current_state(store: Store, record: RunRecord) -> State:
    """How a run stands now; of one that has ended its record says it all."""
    if record.state != "running":  # what the agent said of a run that ended tells nothing
        return record.state
    heartbeat = store.read_whole(run_key(record.run_id, "heartbeat.json"), Heartbeat)
    result = store.read_whole(run_key(record.run_id, "result.json"), Result)
    return state_of(record, heartbeat, result, now(), _claimed(store, record))


def _claimed(store: Store, record: RunRecord) -> datetime | None:
    """When its controller last said that it drives it, by the store's clock."""
    claims = store.list(run_key(record.run_id, "claims"))
    return max((claim.modified for claim in claims), default=None)


def _recipe(parameters: Mapping[str, Any]) -> str:
    return str(parameters.get("recipe", ""))


def print_one(run: dict[str, Any], *, as_json: bool) -> None:
    """One run in detail."""
    if as_json:
        print(json.dumps(run))
        return
    console = Console(highlight=False, soft_wrap=True)

    def show(line: str) -> None:  # which may quote a machine's log
        console.print(Text(harmless(line)))

    title = Text(harmless(run["run_id"]), style="bold")
    console.print(
        title.append(f"  {harmless(_recipe(run['parameters']))}, {run['state']}", "not bold")
    )
    failure = run if run["cause"] else run["result"] or run
    if failure["cause"]:
        show(f"{failure['cause']}: {failure['message']}")
    for stage in run["stages"]:
        mark = "reused" if stage["reused"] else f"{stage['seconds']:.1f} s"
        show(f"  {stage['name']:<17}{mark:>8}  {stage['summary']}")
    if run["state"] == "running" and run["heartbeat"]:
        progress = run["heartbeat"]["progress"]
        if "step" in progress:
            show(f"  step {progress['step']} of {progress['total_steps']}")
    if run["pruned"]:
        show(Pruned.model_validate(run["pruned"]).said)
    if run["checkpoints"] and not run["outcome"] and run["state"] != "running":
        step = run["checkpoints"][-1].lstrip("0") or "0"
        show(f"checkpoint  of step {step}: voc-train fetch {run['run_id']}")
    _print_cost(run, show)
    if run["comparison"]:
        from pipeline.sweep import Comparison
        from pipeline.tables import print_sweep

        print_sweep(Comparison.model_validate(run["comparison"]))
    if run["outcome"]:
        show(f"mIoU {run['outcome']['miou']:.4f}")
        show(f"checkpoint  {run['outcome']['checkpoint']}")
        show(f"report      {run['outcome']['report']}")


def _print_cost(run: dict[str, Any], show: Callable[[str], None]) -> None:
    """What it rented has cost, by its notes in the store, and what nobody has seen gone."""
    if run["dollars"] is None:
        return
    there = [Intent.model_validate(intent) for intent in run["costs_still"]]
    for one in there:
        show(
            f"rented      {one.kind} {one.label} is not gone: ${one.dollars_per_hour:.2f} an hour, "
            f"until {one.until:%d %b %H:%M} UTC",
        )
    show(f"cost        ${run['dollars']:.2f}{' until now' if there else ''}")
    if there and run["state"] != "running":
        show(
            f"            voc-train resume {run['run_id']} goes on with the run, voc-train reap "
            f"--delete --run {run['run_id']} deletes what it rented"
        )
