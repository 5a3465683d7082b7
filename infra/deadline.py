"""When a job must end: a remaining duration by the agent's own clock, kept across a reboot.

No clock can be trusted alone. The monotonic one begins anew with the machine, and the wall clock
may be an hour off or be set right meanwhile. So a note says both what was left when it was written
and when that would be over by the wall clock, and who comes after takes whichever is less.
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ValidationError

from infra.durable import write_durably

_EVERY = 5.0  # seconds between two notes: what a reboot may give back at the most


class _Note(BaseModel):
    order: str
    remaining: float  # seconds
    end: float  # seconds since the epoch, by the clock of this machine


class Deadline:
    """The end of one order's time, `seconds` after `begun` on the monotonic clock.

    Whoever works on the same `order` again, with the same `note`, never gets more time than was
    left; another order begins afresh.
    """

    def __init__(
        self,
        note: Path,
        order: str,
        seconds: float,
        begun: float,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._file = note
        self._order = order
        self._monotonic = monotonic
        self._wall = wall
        self._end = begun + seconds
        if (noted := _read(note)) and noted.order == order:
            self._end = min(self._end, begun + min(noted.remaining, noted.end - wall()))
        self._noted = monotonic()
        self._write()

    @property
    def passed(self) -> bool:
        """Whether the time is over."""
        return self._monotonic() > self._end

    def keep(self) -> None:
        """Note what is left, now and then; to be called all the time."""
        if self._monotonic() >= self._noted + _EVERY:
            self._noted = self._monotonic()
            self._write()

    def _write(self) -> None:
        left = self._end - self._monotonic()
        said = _Note(order=self._order, remaining=left, end=self._wall() + left)
        with contextlib.suppress(OSError):  # a full disk; the note before this one bounds it still
            write_durably(self._file, said.model_dump_json())


def seconds_noted(file: Path) -> float | None:
    """What an earlier agent had left; None where there was none."""
    noted = _read(file)
    return noted.remaining if noted else None


def _read(file: Path) -> _Note | None:
    try:
        return _Note.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None
