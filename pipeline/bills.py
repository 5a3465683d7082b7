"""What runs cost: as their notes in the store say, against what the provider billed."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from infra.clock import Clock
from infra.costs import Costs, month_after, month_begin, month_of
from infra.failure import Failure
from infra.linode import Linode
from infra.ownership import runs_in
from infra.provider import Statement
from infra.stores import Store
from pipeline.console import harmless
from pipeline.monthly_budget import MonthlyBudget, all_costs, dollars_a_month, monthly_budget

By = Literal["run", "month"]
_Dollars = Mapping[tuple[str, str], float]  # of a run in a month


@dataclass(frozen=True)
class Bill:
    """Dollars of a run or of a month, without tax."""

    name: str
    estimated: float | None  # None for a run that this store does not know
    billed: float | None  # as far as it is invoiced; None where that cannot be seen
    invoiced: bool  # all of it
    hourly: float = 0.0  # dollars an hour of what costs still


@dataclass(frozen=True)
class Bills:
    """All of them, oldest first; `unseen` says why nothing can be seen of what was billed."""

    by: By
    bills: tuple[Bill, ...]
    uninvoiced: float | None  # dollars of the whole account, whatever they are for
    budget: MonthlyBudget | None
    unseen: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        budget = self.budget and asdict(self.budget) | {"left": self.budget.left}
        return asdict(self) | {"budget": budget}


def read_bills(store: Store, clock: Clock, by: By, month: str | None = None) -> Bills:
    """What the runs of a store cost, all in all or in one month like 2026-11.

    Where the provider cannot be asked, such as without a token, only the estimates are there.
    Raises Failure(BAD_INPUT) where the monthly budget is no amount.
    """
    dollars_a_month()
    now = clock.now()
    costs = list(all_costs(store).values())
    statement, unseen = None, ""
    begun = min((rent.created for one in costs for rent in one.rents), default=now)
    try:
        since = month_begin(month) if month else begun
        statement = Linode.from_environment(clock).statement(since)
    except Failure as failure:
        unseen = str(failure)
    budget = None
    with suppress(Failure):  # a note that is damaged is for who rents to hear of
        budget = monthly_budget(store, clock, costs)
    return Bills(
        by=by,
        bills=tuple(_bills(by, costs, statement, month, now)),
        uninvoiced=statement.uninvoiced if statement else None,
        budget=budget,
        unseen=unseen,
    )


def _bills(
    by: By, costs: Iterable[Costs], statement: Statement | None, month: str | None, now: datetime
) -> Iterable[Bill]:
    by_id = {one.run_id: one for one in costs}
    estimated = {
        (run, its_month): one.dollars(now, its_month)
        for run, one in by_id.items()
        for its_month in one.months(now)
    }
    billed = _billed(statement) if statement else {}
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for cell in sorted(estimated.keys() | billed.keys()):
        if month in (None, cell[1]):
            groups[cell[by == "month"]].append(cell)
    for name, cells in sorted(groups.items()):
        going = {run for run, its_month in cells if its_month == month_of(now)} & by_id.keys()
        yield Bill(
            name=name,
            estimated=_sum(estimated, cells),
            billed=(_sum(billed, cells) or 0.0) if statement else None,
            invoiced=all(_is_invoiced(its_month, statement) for _, its_month in cells),
            hourly=round(sum(by_id[run].hourly for run in going), 4),
        )


def _billed(statement: Statement) -> _Dollars:
    """What the invoices say of ours; what else the account has is not looked at."""
    billed: dict[tuple[str, str], float] = defaultdict(float)
    for charge in statement.charges:
        for run in runs_in(charge.text):
            billed[run, month_of(charge.begun)] += charge.dollars
    return billed


def _is_invoiced(month: str, statement: Statement | None) -> bool:
    last = statement.invoiced if statement else None
    return last is not None and last >= month_after(month)


def _sum(dollars: _Dollars, cells: Iterable[tuple[str, str]]) -> float | None:
    found = [dollars[cell] for cell in cells if cell in dollars]
    return round(sum(found), 4) if found else None


def print_bills(bills: Bills) -> None:
    """A table with its sum, and what there is to say beside it."""
    console = Console(highlight=False)
    if bills.bills:
        console.print(_table(bills))
    else:
        console.print("Nothing was rented.")
    notes = []
    if any(bill.hourly for bill in bills.bills):
        notes.append("* costs still: `voc-train runs` shows which run")
    if bills.unseen:
        notes.append(f"Estimated only: {bills.unseen}")
    if bills.uninvoiced is not None:
        notes.append(
            f"Not invoiced yet: ${bills.uninvoiced:.2f} of the whole account, voc-train's or not."
        )
    if budget := bills.budget:
        notes.append(
            f"Monthly budget: ${budget.left:.2f} of ${budget.dollars:.2f} is left in "
            f"{budget.month}."
        )
    for note in notes:
        console.print(Text(harmless(note)))


def _table(bills: Bills) -> Table:
    table = Table(bills.by, "estimated", "billed", "difference", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for bill in bills.bills:
        table.add_row(
            Text(harmless(bill.name)),
            f"{_amount(bill.estimated)}{'*' if bill.hourly else ''}",
            _billed_in_words(bill),
            _amount(_difference(bill)),
        )
    table.add_section()
    table.add_row(
        "total",
        _amount(sum(bill.estimated or 0.0 for bill in bills.bills)),
        "" if bills.unseen else _amount(sum(bill.billed or 0.0 for bill in bills.bills)),
        "",
        style="bold",
    )
    return table


def _difference(bill: Bill) -> float | None:
    """What was billed beyond the estimate."""
    if bill.billed is None or bill.estimated is None or not bill.invoiced:
        return None
    return bill.billed - bill.estimated


def _billed_in_words(bill: Bill) -> str:
    if bill.billed is None:
        return ""
    if bill.invoiced:
        return _amount(bill.billed)
    return f"{_amount(bill.billed)} so far" if bill.billed else "not yet"


def _amount(dollars: float | None) -> str:
    return "" if dollars is None else f"{dollars:.2f}"
