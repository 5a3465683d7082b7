"""What the reaper saw when it looked last, for those who rely on it and for those who show it."""

from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict

from infra.failure import Cause, Failure
from infra.provider import Kind
from infra.stores import Store

REPORT = "reaper.json"
FRESH = timedelta(minutes=15)  # how long a look counts

State = Literal["live", "expired", "gone", "lingers"]


class Found(BaseModel):
    """One thing of ours at the provider, and what became of it."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    id: int
    label: str
    run_id: str
    until: datetime
    dollars_per_hour: float | None  # None where it is not known
    state: State
    said: str = ""


class ReaperReport(BaseModel):
    """`reaper.json`: when a reaper last looked, and what it saw."""

    model_config = ConfigDict(frozen=True)

    time: datetime
    deletes: bool  # whether it may delete, or only looks
    found: tuple[Found, ...] = ()
    unseen: dict[Kind, str] = {}  # what could not be looked at, and why
    told: datetime | None = None  # when a person last got a message of what stays that should not

    @property
    def expired(self) -> tuple[Found, ...]:
        """What is past its lease and not gone."""
        return tuple(found for found in self.found if found.state in ("expired", "lingers"))

    @property
    def clean(self) -> bool:
        """Whether everything was looked at, and nothing is there that was to be deleted."""
        return not self.unseen and all(found.state != "lingers" for found in self.found)

    @property
    def dollars_per_hour(self) -> float:
        """What the expired ones cost together, as far as it is known."""
        return round(sum(found.dollars_per_hour or 0 for found in self.expired), 4)


def last_look(store: Store) -> ReaperReport | None:
    """What a reaper saw when it looked last."""
    return store.read_whole(REPORT, ReaperReport)


def must_be_watched(store: Store, now: datetime) -> None:
    """Raise Failure unless a reaper that may delete has looked lately."""
    report = store.read(REPORT, ReaperReport)
    if report and report.deletes and abs(now - report.time) <= FRESH:
        if Kind.INSTANCE not in report.unseen:
            return
        raise Failure(
            Cause.BAD_INPUT,
            f"The reaper cannot see machines, so it would end none: "
            f"{report.unseen[Kind.INSTANCE]} Mend that, or --no-reaper rents all the same.",
        )
    last = f"the last look was at {report.time:%Y-%m-%d %H:%M} UTC" if report else "none ever did"
    if report and not report.deletes:
        last += ", without --delete"
    raise Failure(
        Cause.BAD_INPUT,
        "No reaper that deletes has looked within 15 minutes, so nobody would end a machine if "
        f"this computer failed ({last}). Run `voc-train reap --delete --every 5` on another "
        "computer, or from cron; --no-reaper rents all the same.",
    )
