"""A clock on which time passes by waiting only: what waits for minutes is tested in none."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from infra.clock import Clock


@dataclass(frozen=True)
class SteppedClock(Clock):
    """`waits` are the seconds that were waited, one by one."""

    waits: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return sum(self.waits)

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


@dataclass(frozen=True)
class SteppedDays(SteppedClock):
    """Its date, too, is that of `start` until somebody waits."""

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.start + self.monotonic(), UTC)
