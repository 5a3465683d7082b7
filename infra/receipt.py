"""The receipt of a run: what was created, when it was proven gone, what it cost."""

from collections.abc import Iterable
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from infra.intents import Entry, total
from infra.lease import billed_hours
from infra.protocol import run_key
from infra.provider import Kind
from infra.stores import Store

_KEY = "receipt.json"


class Line(BaseModel):
    """One thing. `gone` is None for what is there still, or could not be shown gone."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    label: str
    id: int | None  # None where it is not known whether it was created
    plan: str
    region: str
    created: datetime | None
    gone: datetime | None
    hours: int
    dollars_per_hour: float
    dollars: float
    kept_until: datetime | None = None  # on purpose
    said: str = ""

    @property
    def end_in_words(self) -> str:
        """When it was proven gone, or why it was not."""
        if self.gone:
            return f"{self.gone:%d %b %H:%M:%S}"
        return f"kept until {self.kept_until:%d %b %H:%M}" if self.kept_until else "NOT SHOWN GONE"


class Phase(BaseModel):
    """When a rental reached something."""

    model_config = ConfigDict(frozen=True)

    time: datetime
    name: str  # created, booting, set-up, training, verified, gone
    said: str


class Receipt(BaseModel):
    """`runs/<run>/receipt.json`: line by line, and the sum."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    time: datetime
    lines: tuple[Line, ...]
    dollars: float
    phases: tuple[Phase, ...] = ()  # in order

    @property
    def leaked(self) -> tuple[Line, ...]:
        """What may be there still, against our will."""
        return tuple(line for line in self.lines if line.gone is None and line.kept_until is None)


def read_receipt(store: Store, run_id: str) -> Receipt | None:
    """The receipt of a run that has ended; None when it rented nothing."""
    return store.read(run_key(run_id, _KEY), Receipt)


def write_receipt(store: Store, receipt: Receipt) -> None:
    """Leave the receipt in the store."""
    store.write(run_key(receipt.run_id, _KEY), receipt)


def receipt(
    run_id: str,
    entries: list[Entry],
    now: datetime,
    *,
    kept: frozenset[str] = frozenset(),
    phases: Iterable[Phase] = (),
) -> Receipt:
    """Fold the notes of a run; what bears a label in `kept` stays on purpose."""
    lines = tuple(_line(entry, now, kept) for entry in entries if entry.creation or entry.open)
    dollars = total(entries, now)
    return Receipt(run_id=run_id, time=now, lines=lines, dollars=dollars, phases=tuple(phases))


def _line(entry: Entry, now: datetime, kept: frozenset[str]) -> Line:
    intent, made, end = entry.intent, entry.creation, entry.end
    paid = intent.dollars_per_hour > 0 and made is not None
    stays = end is None and made is not None and intent.label in kept
    return Line(
        kind=intent.kind,
        label=intent.label,
        id=made.id if made else None,
        plan=intent.plan,
        region=intent.region,
        created=made.created if made else None,
        gone=end.time if end else None,
        hours=billed_hours(made.created, end.time if end else now) if made and paid else 0,
        dollars_per_hour=intent.dollars_per_hour,
        dollars=round(entry.dollars(now), 4),
        kept_until=intent.until if stays else None,
        said=end.said if end else "",
    )
