"""How a sweep stands: its trials as the store knows them, best first.

A sweep is a run that has trials and no checkpoint; each trial is a run of its own. All of this is
read from their records, so that it can be told at any time, from any computer.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from pydantic import BaseModel, ConfigDict

from infra.clock import Clock
from infra.costs import read_costs
from infra.failure import Cause
from infra.protocol import Result, run_key
from infra.reaper_report import last_look
from infra.stores import Store
from pipeline.parameters import home
from pipeline.run_record import (
    Outcome,
    RunRecord,
    Trial,
    WrittenState,
    is_trained,
    recorded_metrics,
)

PLOT, REPORT = "sweep.png", "report.html"
# What tells of the settings and not of the machine: tried again, it would end the same way.
_OF_THE_SETTINGS = {Cause.USER_ERROR, Cause.OUT_OF_MEMORY, Cause.BELOW_GATE, Cause.BAD_INPUT}


class Row(BaseModel):
    """One trial of a sweep."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    settings: dict[str, str]
    state: WrittenState | None  # None where it was not begun
    miou: float | None = None  # on the validation set, at the photos' own size
    dice: float | None = None  # of the foreground class; of several classes the mean of all
    seconds: float | None = None  # of training, by its machine's clock; of the latest attempt
    dollars: float | None = None  # its share, by seconds, of what the sweep's machines cost
    trained: bool = False  # to its end, so that nobody trains it again
    cause: Cause | None = None
    message: str = ""
    curve: tuple[tuple[float, float], ...] = ()  # epoch, mIoU on the validation set

    @property
    def how_it_stands(self) -> str:
        """In a word or two."""
        if self.state == "running":
            return "running" if self.seconds is None else "not scored yet"
        return self.cause or ("" if self.state else "not begun")

    @property
    def is_good(self) -> bool:
        """Whether it may be the best: scored, and not refused by the recipe's gate."""
        return self.miou is not None and self.cause is None

    @property
    def is_missing(self) -> bool:
        """Whether it has no result: not begun, interrupted, or failed of what is not its own."""
        return self.miou is None and self.cause not in _OF_THE_SETTINGS

    @property
    def is_lost(self) -> bool:
        """Whether it is missing for good: what was trained is harmed."""
        return self.is_missing and self.trained and self.cause is Cause.CORRUPT


class Comparison(BaseModel):
    """A sweep's trials, best first; `--json` prints it."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    recipe: str
    rows: tuple[Row, ...]
    best: str | None  # run id of the trial with the highest mIoU
    dollars: float | None  # None where nothing was rented
    report: str = ""  # paths on this computer, where they are there
    plot: str = ""

    @property
    def varied(self) -> tuple[str, ...]:
        """The settings that differ."""
        return tuple(self.rows[0].settings)


def compare(store: Store, record: RunRecord) -> Comparison:
    """The trials of a sweep, best first; those without a score as they were ordered."""
    rows = [_row(store, trial) for trial in record.trials]
    dollars = _dollars(store, record.run_id)
    if dollars is not None:
        rows = _shared(dollars, rows)
    rows.sort(key=lambda row: (not row.is_good, -(row.miou or 0)))
    return Comparison(
        run_id=record.run_id,
        recipe=str(record.parameters.get("recipe", "")),
        rows=tuple(rows),
        best=rows[0].run_id if rows[0].is_good else None,
        dollars=dollars,
        report=_here(record.run_id, REPORT),
        plot=_here(record.run_id, PLOT),
    )


def is_over(store: Store, record: RunRecord | None) -> bool:
    """Whether there is nothing left to train: it ended well, or as it would end again."""
    if record is None:
        return False
    failed_itself = record.state == "failed" and record.cause in _OF_THE_SETTINGS
    return failed_itself or record.state == "done" or is_trained(store, record.run_id)


def is_unscored(store: Store, record: RunRecord | None) -> bool:
    """Whether it is trained to its end, and nobody has scored it yet."""
    return record is not None and record.outcome is None and is_trained(store, record.run_id)


def all_over(store: Store, record: RunRecord) -> bool:
    """Whether no trial of a sweep is left to train."""
    keys = (run_key(trial.run_id, "run.json") for trial in record.trials)
    return all(is_over(store, store.read(key, RunRecord)) for key in keys)


def _here(run_id: str, name: str) -> str:
    path = home() / "checkpoints" / run_id / name
    return str(path) if path.exists() else ""


def _row(store: Store, trial: Trial) -> Row:
    record = store.read(run_key(trial.run_id, "run.json"), RunRecord)
    if record is None:
        return Row(run_id=trial.run_id, settings=trial.settings, state=None)
    result = store.read_whole(run_key(trial.run_id, "result.json"), Result)
    outcome = record.outcome
    return Row(
        run_id=trial.run_id,
        settings=trial.settings,
        state=record.state,
        miou=outcome.miou if outcome else None,
        dice=_dice(outcome) if outcome else None,
        seconds=(result.ended - result.started).total_seconds() if result else None,
        trained=result is not None and result.cause is None,
        cause=record.cause,
        message=record.message,
        curve=_curve(recorded_metrics(store, trial.run_id)),
    )


def _dice(outcome: Outcome) -> float | None:
    """Of the one foreground class, or the mean over the classes that occur."""
    found = list(outcome.dice.values())
    if len(found) == 2:
        return found[1]
    known = [dice for dice in found if dice is not None]
    return sum(known) / len(known) if known else None


def _curve(metrics: Iterable[Mapping[str, Any]]) -> tuple[tuple[float, float], ...]:
    points = []
    for record in metrics:
        with suppress(ValueError, KeyError, TypeError):  # a damaged line hides no other
            if record["kind"] == "epoch":
                points.append((float(record["epoch"]), float(record["miou"])))
    return tuple(points)


def _dollars(store: Store, run_id: str) -> float | None:
    """What the sweep's machines have cost until now."""
    costs = read_costs(store, run_id, ended=False, looked=last_look(store))
    return costs.dollars(Clock.from_environment().now()) if costs else None


def _shared(dollars: float, rows: Sequence[Row]) -> list[Row]:
    """Boot and set-up are shared like the rest: by the seconds that each trial took."""
    seconds = sum(row.seconds or 0 for row in rows)
    return [
        row.model_copy(update={"dollars": round(dollars * row.seconds / seconds, 4)})
        if row.seconds
        else row
        for row in rows
    ]
