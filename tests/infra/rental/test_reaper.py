"""Whatever outlived its lease is deleted by somebody who remembers nothing, and nothing else is."""

import random
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from infra.clock import Clock
from infra.failure import Cause, Failure
from infra.linode import Linode
from infra.ownership import label, tags
from infra.provider import (
    FirewallOrder,
    InstanceOrder,
    KeyOrder,
    Kind,
    ScriptOrder,
    Thing,
    Unauthorised,
    VolumeOrder,
)
from infra.reaper import reap
from infra.reaper_report import FRESH, REPORT, ReaperReport, must_be_watched
from infra.rental import Rental
from infra.simulator import Simulator
from infra.ssh.keys import KeyPair
from infra.stores import Store
from lease_world import World

RUN = "261121-4k2ra"
_LEASE = timedelta(hours=2)


def _rent_everything(rental: Rental, run: str = RUN) -> None:
    until = rental.clock.now() + _LEASE
    own = tags(run, until)
    firewall = rental.create(FirewallOrder(label(run, "f"), own, ("192.0.2.1/32",)), until=until)
    assert isinstance(firewall, Thing)
    for order in (
        ScriptOrder("voc-train-gpu_trainer-0123456789ab", "#!/bin/bash\n", f"voc-train, run {run}"),
        KeyOrder(label(run, "k"), "photos", "https://us-ord-1.linodeobjects.com"),
        InstanceOrder(
            label=label(run, "t"),
            tags=own,
            plan="g2-gpu-rtx4000a1-s",
            region="us-ord",
            authorized_key=KeyPair.generate().public,
            user_data="#cloud-config\n",
            firewall=firewall.id,
        ),
        VolumeOrder(label(run, "v"), own, "us-ord", 10),
    ):
        rental.create(order, price=0.1, until=until)


def _pass(clock: Clock, time: timedelta) -> None:
    clock.sleep(time.total_seconds())


def test_a_live_lease_is_left_alone(
    rental: Rental, provider: Linode, store: Store, clock: Clock, simulator: Simulator
) -> None:
    _rent_everything(rental)
    there = len(simulator.left())
    report = reap(provider, store, clock, delete=True)
    assert {found.state for found in report.found} == {"live"}
    assert len(report.found) == there == len(simulator.left()) == 5
    rental.tear_down()


def test_what_is_past_its_lease_is_shown_and_deleted(
    rental: Rental, provider: Linode, store: Store, clock: Clock, simulator: Simulator
) -> None:
    _rent_everything(rental)
    _pass(clock, _LEASE)
    shown = reap(provider, store, clock, delete=False)
    assert len(shown.expired) == 5
    assert shown.dollars_per_hour > 0.5
    assert len(simulator.left()) == 5

    reports = [reap(provider, store, clock, delete=True) for _ in range(6)]
    assert not simulator.left()
    assert not reports[-1].found
    assert store.read(REPORT, ReaperReport) == reports[-1]


def test_a_token_that_reaches_little_else_deletes_machines(
    rental: Rental,
    provider: Linode,
    store: Store,
    clock: Clock,
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _rent_everything(rental)
    _pass(clock, _LEASE)
    listing = provider.list

    def refuse(kinds: Sequence[Kind]) -> None:
        raise Unauthorised("Its user is restricted.")

    def list_machines(kind: Kind, **more: str) -> list[Thing]:
        if kind is not Kind.INSTANCE:
            raise Unauthorised(f"A scope for {kind} is missing.")
        return listing(kind, **more)

    monkeypatch.setattr(provider, "check", refuse)
    monkeypatch.setattr(provider, "list", list_machines)
    report = reap(provider, store, clock, delete=True)
    assert len(report.unseen) == 5
    assert "instance" not in [thing.kind for thing in simulator.left() if not thing.deleting]


def test_one_run_can_be_ended_before_its_time(
    rental: Rental, provider: Linode, store: Store, clock: Clock, simulator: Simulator
) -> None:
    other = Rental(provider, store, "261121-0ther", clock=clock, say=lambda line: None)
    _rent_everything(rental)
    _rent_everything(other, "261121-0ther")
    for _ in range(6):
        reap(provider, store, clock, delete=True, run_id=RUN)
    assert {found.run_id for found in reap(provider, store, clock, delete=False).found} == {
        "261121-0ther"
    }
    assert len(simulator.left()) == 5
    other.tear_down()


def test_it_reports_what_lingers(
    rental: Rental, provider: Linode, store: Store, clock: Clock, simulator: Simulator
) -> None:
    _rent_everything(rental)
    _pass(clock, _LEASE)
    simulator.faults.add("delete_fails", label=label(RUN, "t"))
    report = reap(provider, store, clock, delete=True)
    (machine,) = (found for found in report.found if found.kind == "instance")
    assert machine.state == "lingers"
    assert machine in report.expired
    simulator.faults.clear()
    for _ in range(5):
        reap(provider, store, clock, delete=True)
    assert not simulator.left()


def test_a_key_whose_creation_was_never_answered_is_found(
    rental: Rental, provider: Linode, store: Store, clock: Clock, simulator: Simulator
) -> None:
    """The controller died between the call and its note: there is only the intent."""
    foreign = simulator.add_foreign("key", label(RUN, "k"))
    until = clock.now() + _LEASE
    endpoint = "https://us-ord-1.linodeobjects.com"
    rental.create(KeyOrder(label(RUN, "k"), "photos", endpoint), until=until)
    store.delete(f"runs/{RUN}/intents/key-{label(RUN, 'k')}.created.json")
    _pass(clock, _LEASE)
    report = reap(provider, store, clock, delete=True)
    assert [found.id for found in report.found] != [foreign]
    assert not simulator.left()


def test_without_the_runs_intents_nothing_untagged_is_touched(
    rental: Rental, provider: Linode, store: Store, clock: Clock, simulator: Simulator
) -> None:
    _rent_everything(rental)
    for entry in store.list(f"runs/{RUN}"):
        store.delete(entry.key)
    _pass(clock, _LEASE)
    for _ in range(4):
        reap(provider, store, clock, delete=True)
    assert {thing.kind for thing in simulator.left()} == {"key", "stackscript"}


def test_nothing_of_others_is_touched_among_a_thousand(
    rental: Rental, provider: Linode, store: Store, clock: Clock, simulator: Simulator
) -> None:
    """Machines, Volumes, keys with names and tags like ours; `simulator` sees every touch."""
    rng = random.Random(3)
    _rent_everything(rental)
    own = tags(RUN, clock.now() - timedelta(days=1))
    names = [label(RUN, "t"), label(RUN, "k"), "voc-train", f"voc-train-{RUN}", "web", "voc_train"]
    for number in range(1000):
        kind = rng.choice(["instance", "volume", "firewall", "key", "stackscript"])
        name = f"{rng.choice(names)}{rng.choice('-_.')}{number}"
        some = rng.sample([*own, "voc-train:run:x", "prod"], k=rng.randint(0, 3))
        simulator.add_foreign(kind, name, some if kind not in ("key", "stackscript") else ())
    _pass(clock, _LEASE)
    for _ in range(6):
        report = reap(provider, store, clock, delete=True)
    assert not report.found
    assert not simulator.left()
    assert not simulator.touched


def test_what_it_cannot_see_keeps_it_from_nothing_else(
    rental: Rental, provider: Linode, store: Store, clock: Clock, simulator: Simulator
) -> None:
    _rent_everything(rental)
    _pass(clock, _LEASE)
    simulator.faults.add("missing_scope", path="/object-storage/*", scope="object_storage*")
    for _ in range(5):
        report = reap(provider, store, clock, delete=True)
    assert list(report.unseen) == ["key"]
    assert {thing.kind for thing in simulator.left()} == {"key"}
    must_be_watched(store, report.time)
    simulator.faults.clear()
    simulator.faults.add("missing_scope", path="/linode/instances", scope="linodes*")
    report = reap(provider, store, clock, delete=True)
    assert not simulator.left()
    with pytest.raises(Failure, match="cannot see machines"):
        must_be_watched(store, report.time)
    simulator.faults.clear()
    simulator.faults.add("expired_token")
    with pytest.raises(Failure, match="token"):
        reap(provider, store, clock, delete=True)


def test_a_price_that_is_not_answered_keeps_nothing_alive(
    rental: Rental, provider: Linode, store: Store, clock: Clock, simulator: Simulator
) -> None:
    _rent_everything(rental)
    _pass(clock, _LEASE)
    simulator.faults.add("server_error", method="GET", path="/linode/types*")
    for _ in range(5):
        report = reap(provider, store, clock, delete=True)
    assert not report.unseen
    assert not simulator.left()


def test_a_crowd_of_machines_takes_no_more_requests_than_a_few() -> None:
    def asked(machines: int) -> int:
        world = World()
        world.start()
        try:
            world.crowd(machines)
            world.requests = 0
            report = reap(world.provider, world.store, world.clock, delete=True)
        finally:
            world.close()
        assert len(report.found) == machines
        assert report.found[-1].dollars_per_hour
        return world.requests

    assert asked(300) == asked(2)


def test_a_damaged_note_hides_no_other_runs_things(
    rental: Rental, provider: Linode, store: Store, clock: Clock, simulator: Simulator
) -> None:
    other = Rental(provider, store, "261121-0ther", clock=clock, say=lambda line: None)
    until = clock.now() + _LEASE
    for one in (rental, other):
        order = KeyOrder(label(one.run_id, "k"), "photos", "https://us-ord-1.linodeobjects.com")
        one.create(order, until=until)
    store.put(f"runs/{RUN}/intents/key-{label(RUN, 'k')}.json", b"{")
    _pass(clock, _LEASE)
    reap(provider, store, clock, delete=True)
    assert [thing.label for thing in simulator.left()] == [label(RUN, "k")]


def test_a_token_that_may_only_look_is_no_watcher(
    store: Store, clock: Clock, tmp_path: Path
) -> None:
    kinds = (
        "linodes",
        "volumes",
        "firewall",
        "stackscripts",
        "object_storage",
        "account",
        "events",
    )
    tokens = {"reader": " ".join(f"{kind}:read_only" for kind in kinds)}
    with Simulator(tmp_path / "other", machines=False, tokens=tokens) as other:
        reader = Linode("reader", other.url, clock=clock)
        report = reap(reader, store, clock, delete=True)
    assert "linodes:read_write" in report.unseen[Kind.INSTANCE]
    with pytest.raises(Failure, match="cannot see machines"):
        must_be_watched(store, report.time)


def test_renting_wants_a_fresh_look_that_may_delete(
    provider: Linode, store: Store, clock: Clock
) -> None:
    with pytest.raises(Failure, match="none ever did") as caught:
        must_be_watched(store, clock.now())
    assert caught.value.cause is Cause.BAD_INPUT
    reap(provider, store, clock, delete=False)
    with pytest.raises(Failure, match="No reaper"):
        must_be_watched(store, clock.now())
    report = reap(provider, store, clock, delete=True)
    must_be_watched(store, report.time + FRESH)
    for late in (timedelta(seconds=1), -2 * FRESH - timedelta(seconds=1)):  # or by a wrong clock
        with pytest.raises(Failure, match="the last look was at"):
            must_be_watched(store, report.time + FRESH + late)


def test_what_was_never_answered_for_is_noted_before_it_goes(
    rental: Rental, provider: Linode, store: Store, clock: Clock, simulator: Simulator
) -> None:
    """Else the next controller would not find it, and spend its dollars again."""
    _rent_everything(rental)
    store.delete(f"runs/{RUN}/intents/instance-{label(RUN, 't')}.created.json")
    _pass(clock, _LEASE)
    for _ in range(3):
        reap(provider, store, clock, delete=True, say=lambda line: None)
    receipt = Rental(provider, store, RUN, clock=clock, say=lambda line: None).tear_down()
    (line,) = (line for line in receipt.lines if line.kind is Kind.INSTANCE)
    assert line.hours >= 2
    assert not simulator.left()
