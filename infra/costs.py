"""What runs have cost and may yet cost, by what they noted in the store.

Every hour that has begun is paid for, and counts to the month, by UTC, in which it begins: so the
months of a machine add up to what it cost.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from infra.intents import Entry, Intents, may_have_been
from infra.lease import billed_hours
from infra.protocol import run_key
from infra.reaper_report import ReaperReport
from infra.receipt import Line, Receipt, read_receipt
from infra.stores import Store

_HOUR = timedelta(hours=1)
_SHOWS = timedelta(minutes=10)  # after its creation, when every listing has it


@dataclass(frozen=True)
class Rent:
    """Something that has a price, from its creation until it was gone."""

    kind: str
    label: str
    dollars_per_hour: float
    created: datetime
    gone: datetime | None  # None while it may be there
    until: datetime | None = None  # when it has to be gone, where it is not yet
    certain: bool = True  # else it is not known whether it was created at all

    def dollars(self, now: datetime, since: datetime | None = None) -> float:
        """What it has cost until now, of hours that began `since` then or later."""
        return self._cost(self.gone or now, since) if self.certain else 0.0

    def at_most(self, now: datetime, since: datetime | None = None) -> float:
        """The same until it has to be gone; what may have been created counts as created."""
        if self.gone:
            return self.dollars(now, since)
        return self._cost(max(now, self.until or now), since)

    def as_dict(self) -> dict[str, Any]:
        """For programs, in an intent's words."""
        return {
            "kind": self.kind,
            "label": self.label,
            "dollars_per_hour": self.dollars_per_hour,
            "until": self.until and self.until.isoformat(),
        }

    def months(self, now: datetime) -> tuple[str, ...]:
        """Those in which it has cost something, as in 2026-11."""
        last = billed_hours(self.created, self.gone or now) - 1
        months, time = [month_of(self.created)], self.created
        while (time := month_after(months[-1])) <= self.created + last * _HOUR:
            months.append(month_of(time))
        return tuple(months)

    def _cost(self, end: datetime, since: datetime | None) -> float:
        hours = billed_hours(self.created, end)
        before = math.ceil((since - self.created) / _HOUR) if since else 0
        return (hours - min(hours, max(0, before))) * self.dollars_per_hour


@dataclass(frozen=True)
class Costs:
    """What one run has rented."""

    run_id: str
    rents: tuple[Rent, ...]
    unknown: dict[str, datetime]  # keys of notes whose price is lost, and when they were written

    @property
    def there(self) -> tuple[Rent, ...]:
        """What costs still, or may."""
        return tuple(rent for rent in self.rents if rent.gone is None)

    @property
    def hourly(self) -> float:
        """Dollars an hour of that."""
        return round(sum(rent.dollars_per_hour for rent in self.there), 4)

    def dollars(self, now: datetime, month: str | None = None) -> float:
        """What it has cost until now, in all or in this month."""
        if month is None:
            return round(sum(rent.dollars(now) for rent in self.rents), 4)
        begin, end = month_begin(month), month_after(month)
        cost = sum(rent.dollars(now, begin) - rent.dollars(now, end) for rent in self.rents)
        return round(cost, 4)

    def at_most(self, now: datetime, since: datetime) -> float:
        """What it may cost in the end, of hours that begin `since` then or later."""
        return round(sum(rent.at_most(now, since) for rent in self.rents), 4)

    def months(self, now: datetime) -> set[str]:
        """Those in which it has cost something."""
        return {month for rent in self.rents if rent.certain for month in rent.months(now)}


def read_costs(
    store: Store, run_id: str, *, ended: bool, looked: ReaperReport | None = None
) -> Costs | None:
    """What a run has rented; None where that is nothing.

    Of a run that has `ended` the receipt and a listing are enough, two requests, unless something
    was left, or rented later: then, as with all others, a listing and up to three requests for each
    thing. `looked` is what a reaper saw last: what it did not see is gone, though nobody noted it.
    When that was is not known, so it counts until that look, or its deadline.
    """
    receipt = read_receipt(store, run_id) if ended else None
    if receipt and _is_whole(receipt, store):
        return _costs(run_id, map(_of_line, receipt.lines))
    return costs_of_notes(run_id, Intents.load(store, run_id).entries(), looked)


def _is_whole(receipt: Receipt, store: Store) -> bool:
    """Whether it tells the end of all that was rented.

    It may be an earlier attempt's: whoever went on may have rented, and died before the next one.
    """
    ended = {(line.kind, line.label) for line in receipt.lines if line.gone}
    return len(ended) == len(receipt.lines) and may_have_been(store, receipt.run_id) <= ended


def costs_of_notes(
    run_id: str, entries: Sequence[Entry], looked: ReaperReport | None
) -> Costs | None:
    """What these notes of a run say; see `read_costs`."""
    rents = (_of_entry(entry, looked) for entry in entries if not entry.damaged)
    unknown = {
        run_key(run_id, "intents", f"{entry.intent.kind}-{entry.intent.label}.json"): (
            entry.intent.time
        )
        for entry in entries
        if entry.damaged
    }
    return _costs(run_id, rents, unknown)


def _costs(
    run_id: str, rents: Iterable[Rent | None], unknown: dict[str, datetime] | None = None
) -> Costs | None:
    paid = tuple(rent for rent in rents if rent and rent.dollars_per_hour)
    return Costs(run_id, paid, unknown or {}) if paid or unknown else None


def _of_line(line: Line) -> Rent | None:
    if line.created is None:  # two listings did not show it
        return None
    return Rent(line.kind, line.label, line.dollars_per_hour, line.created, line.gone)


def _of_entry(entry: Entry, looked: ReaperReport | None) -> Rent | None:
    intent, made, end = entry.intent, entry.creation, entry.end
    if made is None and end is not None:
        return None
    rent = Rent(
        kind=intent.kind,
        label=intent.label,
        dollars_per_hour=intent.dollars_per_hour,
        created=made.created if made else intent.time,
        gone=end.time if end else None,
        until=intent.until,
        certain=made is not None,
    )
    if entry.open and looked and _is_missed(entry, looked):
        return replace(rent, gone=min(intent.until, looked.time)) if made else None
    return rent


def _is_missed(entry: Entry, looked: ReaperReport) -> bool:
    """Whether a reaper that must have seen it did not."""
    intent, made = entry.intent, entry.creation
    seen = any((one.kind, one.label) == (intent.kind, intent.label) for one in looked.found)
    shows = made.created + _SHOWS if made else intent.until
    return looked.time > shows and intent.kind not in looked.unseen and not seen


def month_of(time: datetime) -> str:
    """The month of a moment, as in 2026-11."""
    return f"{time.astimezone(UTC):%Y-%m}"


def month_begin(month: str) -> datetime:
    """Its first moment. Raises ValueError where it is not a month like 2026-11."""
    return datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)


def month_after(month: str) -> datetime:
    """The first moment of the next month."""
    return (month_begin(month) + timedelta(days=31)).replace(day=1)
