"""Whatever becomes of a rental, in whatever order: nothing is lost, and no cent is overspent.

Hypothesis tries histories of orders, faults, deaths and hours on the real rental and reaper, in
front of the simulator's account. What must hold after each step is said in a few lines of plain
arithmetic, `Books`. `VOC_TRAIN_LEASE_HISTORIES=5000` tries so many.
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from effort import LEASE_HISTORIES
from infra.failure import Cause, Failure
from infra.lease import Patience, lease
from infra.ownership import TAGGED, label, tags
from infra.provider import BucketKey, InstanceOrder, Kind, Order, VolumeOrder
from infra.provider import Thing as Made
from infra.reaper import reap
from infra.receipt import Receipt, read_receipt
from infra.rental import Rental
from infra.renting import mint_key, open_firewall
from infra.simulator.things import Instance, Thing
from infra.stackscripts import published
from lease_world import PATHS, RUN, Fate, Killed, World

_BUDGET = 4.0  # dollars
_PRICES = {"g2-gpu-rtx4000a1-s": 0.52, "g2-gpu-rtx4000a2-s": 1.05, "g6-nanode-1": 0.0075}
_GIGABYTE = 0.00015  # dollars an hour
_ENDPOINT = "https://us-ord-1.linodeobjects.com"
_HOUR = timedelta(hours=1)
_CENT = 0.01
T = TypeVar("T")


@dataclass
class Books:
    """The reference: what was ordered at which price, and the provider's own rule."""

    prices: dict[str, float] = field(default_factory=dict)  # dollars an hour, by label
    until: dict[str, datetime] = field(default_factory=dict)

    def dollars(self, thing: Thing, end: datetime) -> float:
        """Every hour that has begun, the first at once."""
        hours = max(1, -((thing.created - end) // _HOUR))
        return hours * self.prices.get(thing.label, 0.0)

    def bill(self, things: Iterable[Thing], now: datetime) -> float:
        return sum(self.dollars(thing, thing.gone or now) for thing in things)

    def worst(self, things: Iterable[Thing], now: datetime) -> float:
        """The bill, where everything stays for as long as it may."""
        ends = {t.id: t.gone or max(now, self.until.get(t.label, now)) for t in things}
        return sum(self.dollars(thing, ends[thing.id]) for thing in things)


def _fates(method: str, *kinds: Kind) -> st.SearchStrategy[Fate]:
    """Nothing, or one of the things that go wrong in a deed; `kinds` are what it is about."""
    paths = st.sampled_from([f"{PATHS[kind]}*" for kind in kinds])
    where = {"path": paths, "skip": st.integers(0, 3), "times": st.integers(1, 3)}

    def fault(
        effect: str, method: str, **more: st.SearchStrategy[object]
    ) -> st.SearchStrategy[Fate]:
        limits = st.fixed_dictionaries({"method": st.just(method), **where, **more})
        return st.builds(Fate, effect=st.just(effect), limits=limits, stale=st.booleans())

    status = st.sampled_from([400, 500, 502])
    return st.one_of(
        st.just(Fate()),
        st.just(Fate()),
        st.builds(Fate, dies_at=st.integers(1, 20), unheard=st.booleans(), stale=st.booleans()),
        st.builds(Fate, store_away=st.builds(range, st.integers(1, 3), st.integers(2, 6))),
        fault("acted_502", method),
        fault("server_error", method, status=status),
        fault("server_error", "GET", status=status),
        fault("rate_limited", method, seconds=st.sampled_from([1, 40, 200])),
        fault("expired_token", "*"),
        fault("delete_lingers" if method == "DELETE" else "restricted_user", "*"),
        st.just(Fate(effect="no_capacity")),
    )


_CREATES = [_fates("POST", kind) for kind in Kind]
_ORDERS = dict(zip(Kind, _CREATES, strict=True))
_ENDS = _fates("DELETE", *Kind)
_WHICH = st.integers(0, 7)


class Histories(RuleBasedStateMachine):
    """One run's rental, its controllers, a reaper, and neighbours in the account."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.world.start()
        self.books = Books()
        self.kept: set[str] = set()  # labels, as the controller of now knows
        self.given_up: set[str] = set()  # labels that somebody was asked to delete
        self.seen_going = True  # whether everything that went was seen going at once
        self.take_over()

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.when_all_is_over()
        finally:
            self.world.close()

    def when_all_is_over(self) -> None:
        """Everybody is dead but the reaper: once every lease is over, nothing is there."""
        notes = self.world.notes().values()
        last = max((note.intent.until for note in notes), default=self.now)
        self.world.clock.sleep(max(0.0, (last - self.now).total_seconds()))
        for _ in range(4):  # a Volume is detached first, and a machine takes seconds
            reap(self.world.provider, self.world.store, self.world.clock, delete=True, say=_silent)
            self.world.clock.sleep(60)
        assert not self.world.there()
        assert not self.world.simulator.touched

    # What the controller does.

    @rule()
    def take_over(self) -> None:
        """The controller is gone, and another one knows what the store knows."""
        patience = Patience(capacity=120, deletion=60)
        world = self.world
        self.rental = Rental(
            world.provider, world.store, RUN, clock=world.clock, patience=patience, say=_silent
        )
        self.kept.clear()

    @rule(plan=st.sampled_from(sorted(_PRICES)), hours=st.sampled_from([0.5, 1, 3, 9]),
          fate=_ORDERS[Kind.INSTANCE])  # fmt: skip
    def rent_a_machine(self, plan: str, hours: float, fate: Fate) -> None:
        walls = [thing for thing in self.world.there() if thing.kind == "firewall"]
        if not walls:
            return
        name = self.rental.next_label("t")
        self._order(name, _PRICES[plan], hours, fate, lambda until: InstanceOrder(
            label=name,
            tags=tags(RUN, until),
            plan=plan,
            region="us-ord",
            authorized_key="ssh-ed25519 AAAA",
            user_data="#cloud-config\n",
            firewall=walls[0].id,
        ))  # fmt: skip

    @rule(hours=st.sampled_from([1, 30]), fate=_ORDERS[Kind.VOLUME])
    def rent_a_volume(self, hours: float, fate: Fate) -> None:
        name, price = self.rental.next_label("v"), 20 * _GIGABYTE
        self._order(name, price, hours, fate, lambda until: VolumeOrder(
            name, tags(RUN, until), "us-ord", 20
        ))  # fmt: skip

    def _order(
        self,
        name: str,
        price: float,
        hours: float,
        fate: Fate,
        order: Callable[[datetime], Order],
    ) -> None:
        spent = self.rental.committed()
        try:
            right = lease(self.now, price, _BUDGET, spent=spent, most_hours=hours)
        except Failure:
            assert _BUDGET - spent < price
            return
        assert spent + right.dollars <= _BUDGET + _CENT / 100
        self.books.prices[name] = price
        self.books.until[name] = right.until
        self._create(
            fate, lambda: self.rental.create(order(right.until), price=price, until=right.until)
        )

    @rule(fate=_ORDERS[Kind.FIREWALL])
    def open_a_firewall(self, fate: Fate) -> None:
        self._create(fate, lambda: open_firewall(self.rental, ("192.0.2.1/32",), 2))

    @rule(fate=_ORDERS[Kind.KEY])
    def mint_a_key(self, fate: Fate) -> None:
        self._create(fate, lambda: mint_key(self.rental, "photos", _ENDPOINT, 2))

    @rule(fate=_ORDERS[Kind.SCRIPT])
    def publish_a_script(self, fate: Fate) -> None:
        def create(order: Order) -> Made:
            said = replace(order, description=f"First used by run {RUN}.")
            made = self.rental.create(said, until=self.now + 2 * _HOUR)
            assert isinstance(made, Made)
            return made

        self._create(fate, lambda: published(self.world.provider, "gpu_trainer", create))

    def _create(self, fate: Fate, deed: Callable[[], Made | BucketKey]) -> None:
        made = self._do(fate, deed)
        if made:
            one = made.thing if isinstance(made, BucketKey) else made
            there = [thing.label for thing in self.world.there() if thing.id == one.id]
            assert there == [one.label]

    def _do(self, fate: Fate, deed: Callable[[], T]) -> T | None:
        """What it returns; None where it failed, which it may only if something went wrong."""
        self.occupied = {t.label for t in self.world.simulator.account.everything() if t.foreign}
        try:
            with self.world.fated(fate):
                return deed()
        except Killed:
            self.take_over()
        except Failure:
            if not fate and not self.occupied:
                raise
        return None

    @precondition(lambda self: self.world.there())
    @rule(which=_WHICH)
    def keep_one(self, which: int) -> None:
        name = self._label(which)
        self.rental.keep(name)
        self.kept.add(name)

    @precondition(lambda self: self.world.notes())
    @rule(which=_WHICH, fate=_ENDS, instead=st.booleans())
    def release_one(self, which: int, fate: Fate, instead: bool) -> None:
        names = sorted({name for _, name in self.world.notes()})
        name = names[which % len(names)]
        self.given_up.add(name)
        self.seen_going &= not fate
        deed = self.rental.replace if instead else self.rental.release
        self._do(fate, lambda: deed(name))
        if not fate:
            assert name not in {thing.label for thing in self.world.there()}
            sent, before = self.world.requests, self.rental.receipt()
            self.rental.release(name)  # deleting what is gone is a success, and no work
            assert (self.world.requests, self.rental.receipt()) == (sent, before)

    @rule(fate=_ENDS, which=_WHICH, stuck=st.booleans())
    def tear_down(self, fate: Fate, which: int, stuck: bool) -> None:
        there = self.world.there()
        spared = set(self.kept)
        self.given_up |= {thing.label for thing in there} - self.kept
        if stuck and there:  # one of them cannot be deleted, which keeps no other
            one = there[which % len(there)]
            spared.add(one.label)
            limits = {"method": "DELETE", "path": f"/{one.url}/{one.id}", "status": 400}
            fate = Fate(effect="server_error", limits=limits)
        self.seen_going &= not fate
        end = self._do(fate, self._proven)
        if end or (stuck and there):
            assert {thing.label for thing in self.world.there()} <= spared
        if end:
            self._agrees(end)

    def _proven(self) -> Receipt | None:
        """The receipt; None where what could not be shown gone was said to be leaked."""
        try:
            end = self.rental.tear_down()
        except Failure as failure:
            if failure.cause is not Cause.LEAKED:
                raise
            assert self.rental.receipt().leaked
            return None
        assert not end.leaked
        assert read_receipt(self.world.store, RUN) == end
        return end

    def _agrees(self, end: Receipt) -> None:
        """What the receipt says is what it cost: never less; more only where we saw it late."""
        true = self.books.bill(self._all(), self.now)
        assert end.dollars >= true - _CENT / 100
        if self.seen_going and not self.world.reaped:
            assert abs(end.dollars - true) < _CENT / 100

    # What happens to it.

    @rule(minutes=st.sampled_from([1, 7, 50, 130, 600]))
    def time_passes(self, minutes: int) -> None:
        self.world.clock.sleep(60 * minutes)

    @precondition(lambda self: any(t.kind == "instance" for t in self.world.there()))
    @rule(which=_WHICH)
    def a_machine_vanishes(self, which: int) -> None:
        machines = [t for t in self.world.there() if isinstance(t, Instance)]
        name = machines[which % len(machines)].label
        self.given_up.add(name)
        self.seen_going = False
        with self.world.fated(Fate(effect="vanish", limits={"label": name, "times": 1})):
            self.world.provider.list(Kind.INSTANCE)

    @rule(delete=st.booleans(), one_run=st.booleans(), fate=_ENDS)
    def a_reaper_looks(self, delete: bool, one_run: bool, fate: Fate) -> None:
        world, run = self.world, RUN if one_run else None
        if delete and one_run:
            self.given_up |= {thing.label for thing in world.there()}
        self.seen_going &= not delete
        try:
            with world.fated(fate):
                reap(
                    world.provider, world.store, world.clock,
                    delete=delete, run_id=run, say=_silent,
                )  # fmt: skip
        except Killed:
            pass
        except Failure:
            assert fate

    @rule(
        kind=st.sampled_from(Kind),
        part=st.sampled_from("tvfk"),
        number=st.integers(1, 4),
        carried=st.integers(0, 3),
        ours=st.booleans(),
    )
    def somebody_creates(
        self, kind: Kind, part: str, number: int, carried: int, ours: bool
    ) -> None:
        """Of the same names and tags as ours, but never of all of them."""
        name = label(RUN, part, number) if ours else f"web-{part}{number}"
        taken = {(t.kind, t.label) for t in self.world.simulator.account.everything()}
        if (kind, name) in taken | self.world.notes().keys():
            return
        own = tags(RUN if carried < 3 else "261121-0ther", self.now - _HOUR)
        self.world.simulator.add_foreign(
            kind, name, own[: carried % 3] if carried < 3 else own
        ) if kind in TAGGED else self.world.simulator.add_foreign(kind, name)

    # What must hold, always.

    @invariant()
    def nothing_of_others_is_touched(self) -> None:
        assert not self.world.simulator.touched

    @invariant()
    def everything_there_is_noted_and_was_before(self) -> None:
        assert not self.world.unannounced
        notes = self.world.notes()
        names = [(thing.kind, thing.label) for thing in self.world.there()]
        assert len(set(names)) == len(names)
        for name in names:
            assert notes[name].open  # type: ignore[index]

    @invariant()
    def nothing_goes_before_its_time(self) -> None:
        for thing in self.world.gone():
            assert thing.label in self.given_up or self.world.until(thing) <= thing.gone

    @invariant()
    def the_budget_holds(self) -> None:
        things = self._all()
        true = self.books.bill(things, self.now)
        said = sum(line.dollars for line in self.world.simulator.bill())
        assert abs(true - said) < _CENT
        assert self.books.worst(things, self.now) <= self.rental.committed() + _CENT / 100
        assert true <= _BUDGET + _CENT / 100

    @property
    def now(self) -> datetime:
        return self.world.clock.now()

    def _all(self) -> list[Thing]:
        return [*self.world.gone(), *self.world.there()]

    def _label(self, which: int) -> str:
        there = self.world.there()
        return there[which % len(there)].label


def _silent(_: str) -> None: ...


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=LEASE_HISTORIES,
    stateful_step_count=20,
    derandomize=True,
    database=None,
    deadline=None,
    print_blob=False,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ],
)
