"""Claims: which controller drives a run. Others look on, or wait until it is gone.

    runs/<run>/claims/<owner>.json    written by its owner alone, and again every few seconds

A candidate first writes a claim without a rank. If no claim that is alive has one, it takes the
next rank and looks again: the highest rank holds the run, of equal ones the earliest. So all agree
who does, without a write that depends on another, and whoever drives a run asks before each act
that costs money. Two that come in the same moment can both go on for one act, which does no harm:
the label of what is created exists once, and to delete what is gone is a success.

Who is alive is told by the store, which says of every object when it was written: computers' clocks
differ.
"""

import contextlib
import os
import secrets
import socket
import threading
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Self

from pydantic import BaseModel, ConfigDict

from infra.failure import Cause, Failure
from infra.protocol import now, run_key
from infra.stores import Store

_RENEWED = 15.0  # seconds between two writings of a claim
_SILENT = timedelta(seconds=90)  # without one, after which its owner counts as gone


class Claim(BaseModel):
    """What lies in the store; `rank` 0 is a candidate's."""

    model_config = ConfigDict(frozen=True)

    owner: str
    where: str  # host and process, for people
    time: datetime  # when it was first made, by its owner's clock; for people, and between equals
    rank: int = 0


class Hold:
    """The right to drive a run, between entering and leaving; a thread keeps it alive."""

    def __init__(
        self, store: Store, run_id: str, *, every: float = _RENEWED, silent: timedelta = _SILENT
    ) -> None:
        self._store = store
        self._folder = run_key(run_id, "claims")
        self._run_id = run_id
        self._every = every
        self._silent = silent
        where = f"{socket.gethostname()}, process {os.getpid()}"
        self._mine = Claim(owner=secrets.token_hex(6), where=where, time=now())
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="claim", daemon=True)

    def __enter__(self) -> Self:
        """Raises Failure(CLAIMED), which says who drives the run."""
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
        holder = _first(claim for claim, alive in self._look() if alive)
        if holder and holder.owner != self._mine.owner:
            raise self._taken(holder)

    def _take(self) -> None:
        self._write()
        seen = self._look()
        if holder := _first(claim for claim, alive in seen if alive):
            raise self._taken(holder)
        rank = 1 + max(claim.rank for claim, _ in seen)  # above the dead, should one come back
        self._mine = self._mine.model_copy(update={"rank": rank})
        self._write()
        self.must_hold()

    def _look(self) -> list[tuple[Claim, bool]]:
        """Every claim, and whether its owner is alive, reckoned from when mine was written last."""
        entries = [*self._store.list(self._folder)]
        latest = max(entry.modified for entry in entries if entry.key == self._key)
        return [
            (claim, latest - entry.modified < self._silent)
            for entry in entries
            if (claim := self._store.read(entry.key, Claim))  # else it was withdrawn meanwhile
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
        return Failure(
            Cause.CLAIMED,
            f"Run {self._run_id} is driven by {holder.where}, since "
            f"{holder.time:%Y-%m-%d %H:%M} UTC; stop it there, or wait "
            f"{self._silent.total_seconds():.0f} s after it has died.",
        )


def _first(claims: Iterable[Claim]) -> Claim | None:
    """Whose run it is: the highest rank, the earliest of equal ones; None without a rank."""
    ranked = [claim for claim in claims if claim.rank]
    return min(ranked, key=lambda claim: (-claim.rank, claim.time, claim.owner), default=None)
