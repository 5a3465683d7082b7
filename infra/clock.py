"""Time, which a rehearsal may run faster than it passes.

Lease, bill and simulator count in the same time, so that an hour's rent can be rehearsed in a
minute. Processes always run in real time.
"""

import math
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from infra.failure import Cause, Failure

_NAME = (
    "VOC_TRAIN_CLOCK"  # in the environment: <start>@<speed>, as `python -m infra.simulator` says
)


@dataclass(frozen=True)
class Clock:
    """`speed` seconds of it pass in a real one, since `start` (real seconds since the epoch)."""

    speed: float = 1.0
    start: float = 0.0

    @classmethod
    def fast(cls, speed: float) -> Self:
        """A clock that is right now, and runs ahead from here on."""
        return cls(speed, time.time())

    @classmethod
    def from_environment(cls) -> Self:
        """Real time, unless this process takes part in a rehearsal that runs elsewhere."""
        said = os.environ.get(_NAME)
        if not said:
            return cls()
        start, _, speed = said.partition("@")
        try:
            clock = cls(float(speed), float(start))
        except ValueError:
            clock = cls(math.nan)
        if not (0 < clock.speed < 1e6 and math.isfinite(clock.start)):
            raise Failure(
                Cause.BAD_INPUT, f"{_NAME} is {said!r}; it is set by a simulator, else unset it."
            )
        return clock

    def environment(self) -> dict[str, str]:
        """What another process must have in its environment to live in the same time."""
        return {} if self.speed == 1 else {_NAME: f"{self.start}@{self.speed}"}

    def now(self) -> datetime:
        """The time, in UTC."""
        elapsed = time.time() - self.start
        return datetime.fromtimestamp(self.start + elapsed * self.speed, UTC)

    def monotonic(self) -> float:
        """Seconds that pass as evenly as the computer's own; only differences mean something."""
        return time.monotonic() * self.speed

    def sleep(self, seconds: float) -> None:
        """Wait until `seconds` of this clock have passed."""
        time.sleep(max(0.0, seconds) / self.speed)
