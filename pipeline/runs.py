"""All runs of a store: when, what, how good, how dear, and how they stand.

What it takes of the store: two requests, and for each run one for its record; two more for what a
run on rented machines cost, its receipt and a listing, or else its notes (see `infra/costs.py`);
and three for how far a run is that goes on. They are asked for 32 at a time.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from infra.clock import Clock
from infra.concurrently import concurrently
from infra.costs import Costs, read_costs
from infra.failure import Cause, Failure
from infra.reaper_report import ReaperReport, last_look
from infra.stores import Store
from pipeline.console import harmless
from pipeline.run_record import RunRecord, recorded_runs
from pipeline.status import State, current_state


@dataclass(frozen=True)
class Listed:
    """A run as the table has it; `costs` is None where nothing was rented."""

    record: RunRecord
    state: State
    costs: Costs | None

    @property
    def recipe(self) -> str:
        return str(self.record.parameters.get("recipe", ""))

    def as_dict(self, time: datetime) -> dict[str, Any]:
        """For programs."""
        costs = self.costs
        return self.record.model_dump(mode="json") | {
            "state": self.state,
            "dollars": costs.dollars(time) if costs else None,
            "costs_still": [rent.as_dict() for rent in costs.there] if costs else [],
        }


@dataclass(frozen=True)
class Wanted:
    """Which runs; None wants all."""

    recipe: str | None = None
    state: State | None = None
    cause: Cause | None = None
    since: datetime | None = None  # started then or later
    last: int | None = None  # of those that are left, the newest

    def has(self, record: RunRecord) -> bool:
        """Whether a run is wanted as far as its record tells."""
        return (
            self.recipe in (None, record.parameters.get("recipe"))
            and self.cause in (None, record.cause)
            and (self.since is None or record.started >= self.since)
        )


def read_runs(store: Store, wanted: Wanted = Wanted()) -> list[Listed]:
    """Those runs whose record can be read, newest first."""
    records = [record for record in recorded_runs(store) if wanted.has(record)]
    if wanted.state is None:  # else which are the last is not known yet
        records = records[: wanted.last]
    looked = last_look(store)
    runs = concurrently(lambda record: _listed(store, record, looked), records)
    return [run for run in runs if wanted.state in (None, run.state)][: wanted.last]


def _listed(store: Store, record: RunRecord, looked: ReaperReport | None) -> Listed:
    state = current_state(store, record)
    return Listed(record, state, costs_of(store, record.run_id, record, looked))


def costs_of(
    store: Store, run_id: str, record: RunRecord | None, looked: ReaperReport | None
) -> Costs | None:
    """What a run rented, whose record may be missing or damaged; None where that is nothing."""
    if record is None:
        return read_costs(store, run_id, ended=False, looked=looked)
    if record.parameters.get("machine", "linode") != "linode":
        return None
    return read_costs(store, run_id, ended=record.state != "running", looked=looked)


def print_runs(store: Store, wanted: Wanted, *, as_json: bool) -> None:
    """A table of runs, newest first; what costs still is marked."""
    runs, time = read_runs(store, wanted), Clock.from_environment().now()
    standing = _standing(store)
    if as_json:
        listed = ((run, standing(run.record.run_id)) for run in runs)
        print(json.dumps([run.as_dict(time) | {"standing": stands} for run, stands in listed]))
    elif runs:
        _print_table(runs, standing, time)
    elif wanted == Wanted():
        print(f"No runs in {store.url} yet.")
    else:
        print(f"No such runs in {store.url}.")


def _sweeps(record: RunRecord) -> str:
    return f", sweep of {len(record.trials)}" if record.trials else ""


def _standing(store: Store) -> Callable[[str], str]:
    """What has become of a run's checkpoint; a damaged decision hides no run."""
    from pipeline.champion import History

    with suppress(Failure):
        return History.load(store).standing
    return lambda _: ""


def _print_table(runs: Sequence[Listed], standing: Callable[[str], str], time: datetime) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("started", "run", "recipe", "mIoU", "dollars", "state", "cause"):
        least = {"recipe": 10, "state": 7}.get(name)  # these give way
        table.add_column(name, no_wrap=least is None, min_width=least, overflow="fold")
    table.columns[4].justify = "right"
    for run in runs:
        table.add_row(
            f"{run.record.started.astimezone():%Y-%m-%d %H:%M}",
            Text(harmless(run.record.run_id)),
            Text(harmless(run.recipe) + _sweeps(run.record)),
            f"{run.record.outcome.miou:.4f}" if run.record.outcome else "",
            _dollars(run.costs, time),
            ", ".join(filter(None, (run.state, standing(run.record.run_id)))),
            run.record.cause or "",
        )
    console = Console(highlight=False)
    console.print(table)
    if any(run.costs and run.costs.there for run in runs):
        console.print("* costs still: `voc-train status RUN` shows what, and how to end it")


def _dollars(costs: Costs | None, time: datetime) -> Text:
    if costs is None:
        return Text("")
    if not costs.there:
        return Text(f"{costs.dollars(time):.2f} ")
    return Text(f"{costs.dollars(time):.2f}*", style="bold red")
