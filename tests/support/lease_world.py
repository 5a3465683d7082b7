"""A world in which rentals can be tried by the thousand: an account, a store, and time.

Nothing in it happens by itself but what a lease counts on: a reaper that looks every five minutes.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import requests
from obstore.store import MemoryStore
from requests.adapters import HTTPAdapter

from in_process import InProcess
from infra.failure import Cause, Failure
from infra.intents import Entry, Intents
from infra.linode import Linode
from infra.ownership import TAG, TAGGED, label, tags
from infra.provider import InstanceOrder, Kind
from infra.reaper import reap
from infra.simulator import Simulator
from infra.simulator.faults import Fault
from infra.simulator.things import Instance, Thing
from infra.ssh.keys import KeyPair
from infra.stores import Store
from stepped_clock import SteppedDays

RUN = "261121-4k2ra"
PATHS = {
    Kind.INSTANCE: "/linode/instances",
    Kind.VOLUME: "/volumes",
    Kind.FIREWALL: "/networking/firewalls",
    Kind.KEY: "/object-storage/keys",
    Kind.SCRIPT: "/linode/stackscripts",
}
_LOOKS_APART = 300.0  # seconds
_START = 1_795_000_000.0

T = TypeVar("T")


class Killed(BaseException):
    """The process that did this is no more."""


@dataclass
class Fate:
    """What goes wrong in one deed."""

    effect: str | None = None  # of infra.simulator.faults
    limits: dict[str, Any] = field(default_factory=dict)  # where and how often
    stale: bool = False  # whether one listing is older than it should be
    dies_at: int | None = None  # which of its acts on provider and store is the last
    unheard: bool = False  # whether that one is done all the same
    store_away: range = range(0)  # which of its writes the store refuses

    def __bool__(self) -> bool:
        return self != Fate()


@dataclass(frozen=True)
class _Time(SteppedDays):
    world: "World | None" = None

    def sleep(self, seconds: float) -> None:
        """Wait, but never over the moment at which the reaper looks."""
        assert self.world
        while seconds > 0:
            step = min(seconds, _LOOKS_APART - self.monotonic() % _LOOKS_APART)
            super().sleep(step)
            seconds -= step
            if not self.monotonic() % _LOOKS_APART:
                self.world.look()


class _Memory(Store):
    """A store whose writes may be refused, or be the last thing that a process did."""

    def __init__(self, world: "World") -> None:
        super().__init__("memory:", MemoryStore())
        self._world = world

    def put(self, key: str, data: bytes) -> None:
        self._world.write(lambda: super(_Memory, self).put(key, data))

    def delete(self, key: str) -> None:
        self._world.write(lambda: super(_Memory, self).delete(key))


class World:
    """Open it with `with`. `requests` counts what went to the provider."""

    def __init__(self) -> None:
        self.clock = _Time(start=_START, world=self)
        self.store = _Memory(self)
        self.simulator = Simulator(
            Path("nowhere"), clock=self.clock, machines=False, tell=self._told
        )
        self.provider = Linode(self.simulator.token, self.simulator.url, clock=self.clock)
        self.unannounced: list[str] = []  # created without a note that it will be
        self.requests = 0
        self.reaped = False  # whether the reaper had to look
        self._reaping = False
        self._fate = Fate()
        self._faults: list[Fault] = []
        self._acts = self._writes = 0
        self._line = InProcess(self.simulator.app)
        self._open = patch.object(
            HTTPAdapter, "send", lambda _, request, **__: self.request(request)
        )

    def start(self) -> None:
        """From now on every request of this process goes to the account."""
        self._open.start()

    def close(self) -> None:
        """Nothing is left of it."""
        self._open.stop()
        self._line.close()

    @contextlib.contextmanager
    def fated(self, fate: Fate) -> Iterator[None]:
        """Within, this goes wrong."""
        self._fate, self._acts, self._writes = fate, 0, 0
        faults = self.simulator.faults
        if fate.effect:
            self._faults.append(faults.add(fate.effect, **fate.limits))
        if fate.stale:
            for kind in TAGGED:
                self._faults.append(faults.add("stale_listing", path=PATHS[kind], times=1))
        try:
            yield
        finally:
            self._fate = Fate()
            self._faults.clear()
            faults.clear()

    def notes(self) -> dict[tuple[str, str], Entry]:
        """What a computer without memory knows of the run, by kind and label."""
        entries = Intents.load(self.store, RUN).entries()
        return {(e.intent.kind, e.intent.label): e for e in entries}

    def there(self) -> list[Thing]:
        """What the account holds of ours."""
        return self.simulator.left()

    def gone(self) -> list[Thing]:
        """What it once held of ours."""
        return [thing for thing in self.simulator.account.past if not thing.foreign]

    def rent(self, letter: str, plan: str, tagged: tuple[str, ...]) -> int:
        """A machine by one request to the provider, which nobody notes; its id."""
        order = InstanceOrder(
            label=label(RUN, letter), tags=tagged, plan=plan, region="us-ord",
            authorized_key=KeyPair.generate().public, user_data="#cloud-config\n", firewall=None,
        )  # fmt: skip
        return self.provider.create(order).id

    def crowd(self, machines: int) -> None:
        """So many machines of ours with two hours to live, no two of one label."""
        self.rent("t", "g2-gpu-rtx4000a1-s", tags(RUN, self.clock.now() + timedelta(hours=2)))
        (first,) = (thing for thing in self.there() if isinstance(thing, Instance))
        for number in range(2, machines + 1):  # to order each would take minutes
            alike = {"id": first.id + number, "label": label(RUN, "t", number)}
            self.simulator.account.add(Instance(**vars(first) | alike))

    def until(self, thing: Thing) -> datetime:
        """Until when it may be there: as its note says; without tags, as any note then did."""
        intents = [entry.intent for entry in self.notes().values()]
        end = thing.gone or self.clock.now()
        if thing.tags:
            return next(i.until for i in intents if (i.kind, i.label) == (thing.kind, thing.label))
        return max((intent.until for intent in intents if intent.time < end), default=end)

    def look(self) -> None:
        """The reaper that a lease counts on; what is wrong elsewhere is not wrong with it."""
        late = [thing for thing in self.there() if self._over(thing)]
        if self._reaping or not late:
            return
        before = [(fault, fault.times) for fault in self._faults]
        for fault in self._faults:
            fault.times = 0
        self._reaping = self.reaped = True
        try:
            reap(self.provider, self.store, self.clock, delete=True, say=lambda _: None)
        finally:
            self._reaping = False
            for fault, times in before:
                fault.times = times

    def _over(self, thing: Thing) -> bool:
        stamp = next((tag for tag in thing.tags if tag.startswith(f"{TAG}:until:")), None)
        return stamp is not None and stamp <= f"{TAG}:until:{self.clock.now():%Y%m%dT%H%M%SZ}"

    def write(self, deed: Callable[[], T]) -> T:
        """A write to the store, or what becomes of it."""
        self._writes += not self._reaping
        if not self._reaping and self._writes in self._fate.store_away:
            raise Failure(Cause.STORE, "The store is away.")
        return self._act(deed)

    def request(self, request: requests.PreparedRequest) -> requests.Response:
        """What the account answers, and what becomes of who asked."""
        self.requests += 1
        return self._act(lambda: self._line.send(request))

    def _act(self, deed: Callable[[], T]) -> T:
        if self._reaping:
            return deed()
        self._acts += 1
        if self._acts != self._fate.dies_at:
            return deed()
        if self._fate.unheard:
            deed()
        raise Killed

    def _told(self, text: str) -> None:
        """Everything that is created must have its note in the store already."""
        kind, _, rest = text.partition(" ")
        if not rest.endswith(" created") or kind not in set(Kind):
            return
        label = rest.partition("(")[2].removesuffix(") created")
        note = self.notes().get((kind, label))
        if note is None or not note.open:
            self.unannounced.append(label)
