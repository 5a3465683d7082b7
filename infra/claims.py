"""Claims: which controller drives a run. Others look on, or wait until it is gone.

    runs/<run>/claims/<owner>.json    written by its owner alone, and again every few seconds

A candidate first writes a claim without a rank. If nobody who lives has the highest one, it takes
the next and looks again: the highest rank holds the run, of equal ones the earliest. So all agree
who does, without a write that depends on another, and whoever drives a run asks before each act
that costs money. Two that come in the same moment can both go on for one act, which does no harm:
the label of what is created exists once, and to delete what is gone is a success. Whoever was
replaced stays so, since it knows nothing of what was done meanwhile; for that the claim of one that
has replaced another is not removed when it ends.

Who is alive is told by the store, which says of every object when it was written: computers' clocks
differ. Only of a process of this very computer is it known at once that it has ended.
"""

import contextlib
import os
import secrets
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from pydantic import BaseModel, ConfigDict

from infra.failure import Cause, Failure
from infra.processes import has_ended, identity
from infra.protocol import now, run_key
from infra.stores import Entry, Store

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
    withdrawn: bool = False


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
        wait: bool = True,
        say: Callable[[str], None] = print,
    ) -> None:
        """Whoever does not `wait` takes the run from whoever drives it."""
        self._store = store
        self._folder = run_key(run_id, "claims")
        self._run_id = run_id
        self._every = every
        self._silent = silent
        self._waits = wait
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
        if self._mine.rank == 1:
            self._withdraw()
            return
        self._mine = self._mine.model_copy(update={"withdrawn": True})
        with contextlib.suppress(Failure):  # whoever was replaced hears as much of the claim as is
            self._write()

    def must_hold(self) -> None:
        """Raise Failure(CLAIMED) where another one drives the run, or did; ask before each act."""
        seen = self._look()
        holder = _first(seen) or max(seen, key=_rank, default=None)
        if holder and holder.claim.owner != self._mine.owner and _rank(holder) >= self._mine.rank:
            raise self._taken(holder.claim)

    def _take(self) -> None:
        before: _Seen | None = None
        while (holder := _first(seen := self._look())) and self._waits:
            if before and holder.claim == before.claim and holder.written > before.written:
                raise self._taken(holder.claim)
            if before is None:
                self._say(
                    f"{holder.claim.where} drove this run a moment ago; waiting whether it does "
                    f"still, {self._silent.total_seconds():.0f} s at the most"
                )
            before = before if before and holder.claim == before.claim else holder
            self._ended.wait(self._every / 3)
        rank = 1 + max(map(_rank, seen), default=0)  # above the dead, should one come back
        self._mine = self._mine.model_copy(update={"rank": rank})
        self.must_hold()

    def _look(self) -> list[_Seen]:
        """Every claim, and whether its owner is alive, reckoned from when mine was written."""
        self._write()
        entries = [*self._store.list(self._folder)]
        latest = max(entry.modified for entry in entries)  # which the store said just now
        return [
            _seen(entry, claim, latest, self._silent)
            for entry in entries
            if (claim := self._store.read_whole(entry.key, Claim))  # else withdrawn, or damaged
        ]

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
        if holder.withdrawn:
            return Failure(
                Cause.CLAIMED,
                f"Run {self._run_id} was taken over by {holder.where}, which has ended; see how "
                f"with `voc-train status {self._run_id}`.",
            )
        return Failure(
            Cause.CLAIMED,
            f"Run {self._run_id} is driven by {holder.where}, since "
            f"{holder.time:%Y-%m-%d %H:%M} UTC; stop it there, or look on with `voc-train status "
            f"{self._run_id}`.",
        )


def may_be_driven(
    store: Store, entries: Sequence[Entry], time: datetime, silent: timedelta
) -> bool:
    """Whether one of a run's claims may be alive of those that count: the highest, and candidates'.

    For who only looks on, and writes no claim of its own: `time` is by the caller's clock, and
    `silent` what makes up for that.
    """
    unknown = Claim(owner="", where="", time=time)  # may be another version's
    claims = ((one, store.read_whole(one.key, Claim) or unknown) for one in entries)
    seen = [_seen(entry, claim, time, silent) for entry, claim in claims]
    highest = max(map(_rank, seen), default=0)
    return any(one.alive and _rank(one) in (0, highest) for one in seen)


def _seen(entry: Entry, claim: Claim, time: datetime, silent: timedelta) -> _Seen:
    ended = time - entry.modified >= silent or has_ended(claim.process)
    return _Seen(claim, entry.modified, alive=not (ended or claim.withdrawn))


def _first(seen: Sequence[_Seen]) -> _Seen | None:
    """Whose run it is: of the highest rank there was the earliest that lives; None without one."""
    highest = max(map(_rank, seen), default=0)
    living = [one for one in seen if one.alive and _rank(one) == highest > 0]
    return min(living, key=lambda one: (one.claim.time, one.claim.owner), default=None)


def _rank(seen: _Seen) -> int:
    return seen.claim.rank
