"""Inputs on demand: those of a job's large inputs that it asks for, within a bound on the disk.

The job says all that it wants now and next, most urgent first (`OnDemand` in `protocol.py`). What
is not wanted goes, what is wanted comes, as much of it as there is room for: so nothing is
remembered, and it does not matter who was killed in between.
"""

import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.failure import Cause, Failure
from infra.protocol import Input, OnDemand
from infra.stores import Store

WANTED = "wanted"  # in the job's folder
_LOOK = 0.02  # seconds between two looks at it
_AT_ONCE = 4  # that arrive at the same time: one connection does not fill a line
_AGAIN = 1.0  # seconds until a store that failed is asked again


class Supplier:
    """Keeps what a job wants of its inputs in `job`, from entering the block to leaving it.

    `give_up` hears the reason, once, where an input is damaged or the store fails for longer than
    `patience` has seconds: for one that is away, and for one that refuses.
    """

    def __init__(
        self,
        store: Store,
        job: Path,
        supplied: OnDemand,
        give_up: Callable[[Failure], None],
        patience: tuple[float, float],
    ) -> None:
        self._store = store
        self._job = job
        self._room = supplied.room
        self._known = {one.path: one for one in supplied.inputs}
        self._patience = patience
        self._give_up = give_up
        self._there: set[str] = set()
        self._arriving: dict[Future[None], str] = {}
        self._well = time.monotonic()  # when something last arrived, or nothing was missing
        self._not_before = 0.0
        self._look = threading.Event()
        self._ended = False
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        """Begin with an empty disk: what a killed agent left may be cut short."""
        for folder in {(self._job / path).parent for path in self._known}:
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(parents=True)
        (self._job / WANTED).unlink(missing_ok=True)
        if self._known:
            self._lines = self._exits.enter_context(ThreadPoolExecutor(_AT_ONCE))
            thread = threading.Thread(target=self._supply)
            self._exits.callback(thread.join)
            thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None
    ) -> None:
        """Ends when what is arriving has arrived, or has failed to."""
        self._ended = True
        self._look.set()
        self._exits.close()

    @property
    def held(self) -> int:
        """Bytes that are there or on their way."""
        return sum(self._known[path].size for path in self._there | {*self._arriving.values()})

    def _supply(self) -> None:
        try:
            while not self._ended:
                self._receive()
                self._serve(self._wanted())
                self._look.wait(_LOOK)
                self._look.clear()
        except Failure as failure:
            self._give_up(failure)
        except OSError as error:
            said = f"The disk of {self._job} cannot be used ({error.strerror}); see to it."
            self._give_up(Failure(Cause.STORE, said))

    def _wanted(self) -> list[Input]:
        """What the job wants, as far as there is room."""
        try:
            said = (self._job / WANTED).read_text()
        except FileNotFoundError:
            return []
        wanted, left = [], self._room
        for path in dict.fromkeys(said.splitlines()):
            if (one := self._known.get(path)) is None:
                raise Failure(
                    Cause.USER_ERROR, f"The job wants {path}, which is none of its inputs."
                )
            left -= one.size
            if left < 0:
                break
            wanted.append(one)
        return wanted

    def _serve(self, wanted: list[Input]) -> None:
        paths = {one.path for one in wanted}
        for path in self._there - paths:
            (self._job / path).unlink()
            self._there.remove(path)
        missing = [one for one in wanted if one.path not in self._there]
        if not missing:
            self._well = time.monotonic()
        if time.monotonic() < self._not_before:
            return
        coming = {*self._arriving.values()}
        for one in missing:
            if one.path in coming:
                continue
            # What is no longer wanted, and still arrives, takes its room, too.
            if len(self._arriving) == _AT_ONCE or self.held + one.size > self._room:
                return
            self._arriving[self._lines.submit(self._fetch, one)] = one.path

    def _fetch(self, one: Input) -> None:
        try:
            self._store.get_file(one.key, self._job / one.path, sha256=one.sha256)
        finally:
            self._look.set()

    def _receive(self) -> None:
        """Note what has arrived; Failure where what failed is not worth another try."""
        for done in [future for future in self._arriving if future.done()]:
            path = self._arriving.pop(done)
            try:
                done.result()
            except Failure as failure:
                now = time.monotonic()
                give_up_at = self._well + self._patience[failure.permanent]
                if failure.cause is not Cause.STORE or now > give_up_at:
                    raise
                self._not_before = now + _AGAIN
            else:
                self._there.add(path)
                self._well = time.monotonic()
