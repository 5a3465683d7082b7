"""What will happen later, in the order of the clock."""

import heapq
import itertools
import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from infra.clock import Clock


class Schedule:
    """Runs actions when the clock has reached them, one at a time, under one lock.

    Whoever looks at the state calls `catch_up` first, so that what they see does not depend on how
    fast a thread woke up; the thread is for machines, which have to boot while nobody looks.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lock = threading.RLock()
        self._waiting: list[tuple[datetime, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition(self.lock)
        self._closed = False
        self._moment: datetime | None = None
        self.errors: list[Exception] = []
        self._thread = threading.Thread(target=self._run, name="simulator-schedule", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Nothing that was still to come will happen."""
        with self.lock:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join()

    def now(self) -> datetime:
        """The time; for an action the moment it was due, however late anybody looked."""
        return self._moment or self.clock.now()

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something `seconds` of the clock from now."""
        with self.lock:
            due = self.now() + timedelta(seconds=seconds)
            heapq.heappush(self._waiting, (due, next(self._order), action))
            self._changed.notify_all()

    def catch_up(self) -> None:
        """Do everything that is due."""
        with self.lock:
            while self._waiting and self._waiting[0][0] <= self.clock.now():
                self._moment, _, action = heapq.heappop(self._waiting)
                try:
                    action()
                except Exception as error:  # whoever looks just now is not the one to hear of it
                    self.errors.append(error)
                finally:
                    self._moment = None

    def _run(self) -> None:
        with self.lock:
            while not self._closed:
                self.catch_up()
                wait = None
                if self._waiting:
                    left = self._waiting[0][0] - self.clock.now()
                    wait = max(0.001, left.total_seconds() / self.clock.speed)
                self._changed.wait(wait)
