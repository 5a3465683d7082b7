"""The right to a machine: until when, for how much. Decisions only, nothing is asked or done here.

A provider bills every hour that has begun, from the creation to the deletion, whether the machine
runs or not. So a budget in dollars is a number of whole hours, and that is a deadline.
"""

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from infra.clock import Clock
from infra.failure import Cause, Failure

# A reaper that looks every five minutes must still delete within the last hour that is paid.
REAPED = timedelta(minutes=6)
TEAR_DOWN = timedelta(minutes=10)  # before that: the checkpoint comes home, the machine is deleted
_HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Patience:
    """How long each phase of a rental may take, seconds."""

    capacity: float = 900  # asking every offer, again and again
    boot: float = 600
    login: float = 300  # from a running machine to its sshd with the right host key
    set_up: float = 2700  # drivers and 3 GB of Python packages
    heartbeat: float = 300  # from the agent's start to its first sign of life
    stall: float = 900  # between two signs of life
    late: float = 330  # past its deadline, for a job's last upload; less than TEAR_DOWN
    deletion: float = 1200

    def in_time_of(self, clock: Clock) -> "Patience":
        """The same under a fast clock: processes run in real time, whatever the clock says."""
        real = ("login", "set_up", "heartbeat", "stall", "late")
        return replace(self, **{name: getattr(self, name) * clock.speed for name in real})


@dataclass(frozen=True)
class Lease:
    """`until` is when everything must be gone; `hours` are what is paid at the most."""

    until: datetime
    hours: int
    dollars: float  # the worst case for this machine


def seconds_to_work(until: datetime, now: datetime) -> float:
    """What is left for a job at a machine that must be gone `until`; negative when nothing is."""
    return (until - TEAR_DOWN - now).total_seconds()


def billed_hours(created: datetime, gone: datetime) -> int:
    """Hours that are paid for: every one that has begun, at least one."""
    return max(1, math.ceil((gone - created) / _HOUR))


def lease(
    now: datetime, dollars_per_hour: float, budget: float, *, spent: float, most_hours: float
) -> Lease:
    """What may be rented now at this price, for what is left of the budget.

    `most_hours` bounds it where the budget would pay for more. Raises Failure(BUDGET) when the
    budget does not pay for an hour, and for a price of 0, which is none.
    """
    if not (math.isfinite(dollars_per_hour) and dollars_per_hour > 0):
        raise Failure(
            Cause.BUDGET, "The price of this machine is not known, so no budget can hold for it."
        )
    # A cent's rounding must not cost an hour: 3 × 0.52 is a hair more than 1.56.
    affordable = math.floor((budget - spent) / dollars_per_hour + 1e-9)
    hours = min(affordable, math.ceil(most_hours))
    if hours < 1:
        left = f"${budget - spent:.2f} left of it" if spent else f"${budget:.2f}"
        raise Failure(
            Cause.BUDGET,
            f"The budget ({left}) does not pay for the first hour, which costs "
            f"${dollars_per_hour:.2f}; give more with --budget, or name a cheaper --plan.",
        )
    return Lease(now + hours * _HOUR - REAPED, hours, round(hours * dollars_per_hour, 4))
