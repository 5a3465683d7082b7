"""Claims: which controller drives a run. Others look on, or wait until it is gone.

    runs/<run>/claims/<owner>.json    written by its owner alone, and again every few seconds

A candidate first writes a claim without a rank. If no claim that is alive has one, it takes the
next rank and looks again: the highest rank holds the run, of equal ones the earliest. So all agree
who does, without a write that depends on another, and whoever drives a run asks before each act
that costs money. Two that come in the same moment can both go on for one act, which does no harm:
the label of what is created exists once, and to delete what is gone is a success.

Who is alive is told by the store, which says of every object when it was written: computers' clocks
differ. Only of a process of this very computer is it known at once that it has ended.
"""

import contextlib
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from pydantic import BaseModel, ConfigDict

from infra.failure import Cause, Failure
from infra.processes import has_ended, identity
from infra.protocol import now, run_key
from infra.stores import Store

_RENEWED = 15.0  # seconds between two writings of a claim
_SILENT = timedelta(seconds=90)  # without one, after which its owner counts as gone


class Claim(BaseModel):
    """What lies in the store; `rank` 0 is a candidate's."""

    model_config = ConfigDict(frozen=True)

    owner: str
    where: str  # host and process, for people
    process: str = ""  # which it is, to its own computer
    time: datetime  # when it was first made, by its owner's clock; for people, and between equals
    rank: int = 0


@dataclass(frozen=True)
class _Seen:
    claim: Claim
    written: datetime  # last, by the store's clock
    alive: bool


class Hold:
    """The right to drive a run, between entering and leaving; a thread keeps it alive."""

    def __init__(
        self,
        store: Store,
        run_id: str,
        *,
        every: float = _RENEWED,
        silent: timedelta = _SILENT,
        say: Callable[[str], None] = print,
    ) -> None:
        self._store = store
        self._folder = run_key(run_id, "claims")
        self._run_id = run_id
        self._every = every
        self._silent = silent
        self._say = say
        where = f"{socket.gethostname()}, process {os.getpid()}"
        self._mine = Claim(owner=secrets.token_hex(6), where=where, process=identity(), time=now())
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="claim", daemon=True)

    def __enter__(self) -> Self:
        """Wait until whoever drives the run is gone, if anybody does.

        Raises Failure(CLAIMED), which says who it is, as soon as it is heard of again.
        """
        try:
            self._take()
        except BaseException:
            self._withdraw()
            raise
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._withdraw()

    def must_hold(self) -> None:
        """Raise Failure(CLAIMED) where another one drives the run by now; ask before each act."""
        holder = _first(self._look())
        if holder and holder.claim.owner != self._mine.owner:
            raise self._taken(holder.claim)

    def _take(self) -> None:
        before: _Seen | None = None
        while holder := _first(seen := self._look()):
            if before and holder.claim == before.claim and holder.written > before.written:
                raise self._taken(holder.claim)
            if before is None:
                self._say(
                    f"{holder.claim.where} drove this run a moment ago; waiting whether it does "
                    f"still, {self._silent.total_seconds():.0f} s at the most"
                )
            before = before if before and holder.claim == before.claim else holder
            self._ended.wait(self._every / 3)
        rank = 1 + max(
            (one.claim.rank for one in seen), default=0
        )  # above the dead, should one come back
        self._mine = self._mine.model_copy(update={"rank": rank})
        self.must_hold()

    def _look(self) -> list[_Seen]:
        """Every claim, and whether its owner is alive, reckoned from when mine was written."""
        self._write()
        entries = [*self._store.list(self._folder)]
        latest = max(entry.modified for entry in entries)  # which the store said just now
        seen = []
        for entry in entries:
            if claim := self._store.read_whole(entry.key, Claim):  # else withdrawn, or damaged
                silent = latest - entry.modified >= self._silent or has_ended(claim.process)
                seen.append(_Seen(claim, entry.modified, alive=not silent))
        return seen

    def _renew(self) -> None:
        while not self._ended.wait(self._every):
            with contextlib.suppress(Failure):  # the next one may be heard
                self._write()

    def _write(self) -> None:
        self._store.write(self._key, self._mine)

    def _withdraw(self) -> None:
        with contextlib.suppress(Failure):  # it is going to be silent
            self._store.delete(self._key)

    @property
    def _key(self) -> str:
        return f"{self._folder}/{self._mine.owner}.json"

    def _taken(self, holder: Claim) -> Failure:
        return Failure(
            Cause.CLAIMED,
            f"Run {self._run_id} is driven by {holder.where}, since "
            f"{holder.time:%Y-%m-%d %H:%M} UTC; stop it there, or look on with `voc-train status "
            f"{self._run_id}`.",
        )


def _first(seen: Iterable[_Seen]) -> _Seen | None:
    """Whose run it is: of the living the highest rank, then the earliest; None without a rank."""
    ranked = [one for one in seen if one.alive and one.claim.rank]
    order = lambda one: (-one.claim.rank, one.claim.time, one.claim.owner)  # noqa: E731
    return min(ranked, key=order, default=None)
