"""What a month may cost: the worker's own word, which no run's parameters can lift."""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass

from infra.clock import Clock
from infra.concurrently import concurrently
from infra.costs import Costs, month_begin, month_of
from infra.failure import Cause, Failure
from infra.reaper_report import last_look
from infra.stores import Store
from pipeline.run_record import recorded_runs
from pipeline.runs import costs_of

VARIABLE = "VOC_TRAIN_MONTHLY_BUDGET"


@dataclass(frozen=True)
class MonthlyBudget:
    """Dollars for a month, by UTC, and what of them is `taken`: spent, or may yet be."""

    month: str  # as in 2026-11
    dollars: float
    taken: float

    @property
    def left(self) -> float:
        """Dollars that another rental may cost at the most."""
        return max(0.0, round(self.dollars - self.taken, 4))

    def must_pay_for(self, worst_case: float) -> None:
        """Raise Failure(BUDGET) where a rental could go beyond it."""
        # A cent's rounding must not forbid what it just pays for.
        if self.taken + worst_case <= self.dollars + 1e-6:
            return
        raise Failure(
            Cause.BUDGET,
            f"This could cost ${worst_case:.2f}, and of the monthly budget ({VARIABLE}, "
            f"${self.dollars:.2f}) ${self.left:.2f} is left: runs of {self.month} have cost "
            f"${self.taken:.2f}, or may yet. Give less with --budget or --limit train_hours, wait "
            "for the next month, or raise it where the worker is; `voc-train bills --by run "
            f"--month {self.month}` shows what it went for.",
        )


def monthly_budget(
    store: Store, clock: Clock, costs: Iterable[Costs] | None = None
) -> MonthlyBudget | None:
    """The budget as the environment has it, and how it stands; None where there is none.

    It counts the runs of this store, all of them: by `costs`, else as `all_costs` reads them. What
    has not ended counts until its deadline, in whichever month that is. Two that rent in the same
    moment do not see each other. Raises Failure(BAD_INPUT) for a value that is no amount,
    Failure(CORRUPT) where it is not known what this month has cost.
    """
    if (dollars := dollars_a_month()) is None:
        return None
    now = clock.now()
    month = month_of(now)
    since = month_begin(month)
    costs = tuple(all_costs(store).values() if costs is None else costs)
    for one in costs:
        if lost := [key for key, written in one.unknown.items() if written >= since]:
            raise Failure(
                Cause.CORRUPT,
                f"{lost[0]} in {store.url} is damaged, so what {month} has cost is not known, and "
                "nothing is rented. See that Cloud Manager shows nothing of that name, and delete "
                "the note.",
            )
    return MonthlyBudget(month, dollars, round(sum(one.at_most(now, since) for one in costs), 4))


def all_costs(store: Store) -> dict[str, Costs]:
    """What every run of the store has rented, by its id; also of those without a record.

    Such are smoke tests, and runs whose record is damaged.
    """
    folders, looked = store.folders("runs"), last_look(store)
    records = {record.run_id: record for record in recorded_runs(store, folders)}
    costs = concurrently(lambda run: costs_of(store, run, records.get(run), looked), folders)
    return {one.run_id: one for one in costs if one}


def dollars_a_month() -> float | None:
    """What the environment allows a month, None where it says nothing.

    Raises Failure(BAD_INPUT) for a value that is no amount.
    """
    said = os.environ.get(VARIABLE, "").strip()
    if not said:
        return None
    try:
        dollars = float(said)
    except ValueError:
        dollars = math.nan
    if not (math.isfinite(dollars) and dollars >= 0):
        raise Failure(
            Cause.BAD_INPUT, f"{VARIABLE} is {said!r}; give dollars a month, like 50, or unset it."
        )
    return dollars
