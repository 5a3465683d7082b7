"""Nothing that was created is forgotten, and everything is proven gone."""

from datetime import timedelta

import pytest
from pydantic import BaseModel, ValidationError

from infra.clock import Clock
from infra.failure import Cause, Failure
from infra.intents import Intent, Intents
from infra.linode import Linode
from infra.ownership import TAGGED, label, tags
from infra.protocol import run_key
from infra.provider import (
    BucketKey,
    FirewallOrder,
    InstanceOrder,
    KeyOrder,
    Kind,
    NoCapacity,
    Refused,
    ScriptOrder,
    Thing,
    Unclear,
)
from infra.receipt import Receipt
from infra.rental import Rental
from infra.simulator import Simulator
from infra.ssh.keys import KeyPair
from infra.stores import Store

RUN = "261121-4k2ra"
_PRICE = 0.52


def _order(rental: Rental, number: int = 1) -> InstanceOrder:
    until = rental.clock.now() + timedelta(hours=5)
    firewall = rental.create(
        FirewallOrder(label(RUN, "f", number), tags(RUN, until), ("203.0.113.7/32",)), until=until
    )
    assert isinstance(firewall, Thing)
    return InstanceOrder(
        label=label(RUN, "t", number),
        tags=tags(RUN, until),
        plan="g2-gpu-rtx4000a1-s",
        region="us-ord",
        authorized_key=KeyPair.generate().public,
        user_data="#cloud-config\n",
        firewall=firewall.id,
    )


def _create(rental: Rental, number: int = 1) -> Thing:
    order = _order(rental, number)
    until = rental.clock.now() + timedelta(hours=5)
    made = rental.create(order, price=_PRICE, until=until)
    assert isinstance(made, Thing)
    return made


def test_from_create_to_receipt(rental: Rental, simulator: Simulator, store: Store) -> None:
    machine = _create(rental)
    written = Intents.load(store, RUN).entries()
    assert [(e.intent.kind, e.open) for e in written] == [
        (Kind.FIREWALL, True),
        (Kind.INSTANCE, True),
    ]
    receipt = rental.tear_down()

    assert not simulator.left()
    assert not receipt.leaked
    (line,) = (line for line in receipt.lines if line.kind is Kind.INSTANCE)
    assert (line.id, line.dollars_per_hour) == (machine.id, _PRICE)
    assert line.created
    assert line.gone
    assert line.created < line.gone
    billed = [bill for bill in simulator.bill() if bill.kind == "instance"]
    assert receipt.dollars == pytest.approx(sum(bill.dollars for bill in billed))
    assert store.read(run_key(RUN, "receipt.json"), Receipt) == receipt


@pytest.mark.parametrize("effect", ["acted_502", "silent_502"])
def test_an_unclear_answer_makes_one_machine(
    rental: Rental, simulator: Simulator, effect: str
) -> None:
    order = _order(rental)
    where = {"method": "POST", "path": "/linode/instances", "times": 1}
    if effect == "acted_502":
        simulator.faults.add("acted_502", **where)
    else:
        simulator.faults.add("server_error", status=502, **where)
    made = rental.create(order, price=_PRICE, until=rental.clock.now() + timedelta(hours=5))
    assert isinstance(made, Thing)
    assert [thing.id for thing in simulator.left() if thing.kind == "instance"] == [made.id]
    rental.tear_down()
    assert not simulator.left()


def test_a_late_answer_that_no_listing_shows_yet_is_not_created_twice(
    rental: Rental, simulator: Simulator
) -> None:
    order = _order(rental)
    simulator.faults.add("acted_502", method="POST", path="/linode/instances", times=1)
    simulator.faults.add("stale_listing", label=order.label, times=1)
    made = rental.create(order, price=_PRICE, until=rental.clock.now() + timedelta(hours=5))
    assert isinstance(made, Thing)
    assert len([thing for thing in simulator.left() if thing.kind == "instance"]) == 1
    rental.tear_down()


def test_a_refusal_after_an_unclear_answer_leaves_the_intent_open(
    rental: Rental, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one may still show, long after: tear-down and reaper have to know of it."""
    order = _order(rental)
    create = rental.provider.create
    answers = [Unclear("no answer"), NoCapacity("none is free")]

    def answer(_order: InstanceOrder) -> Thing:
        raise answers.pop(0)

    monkeypatch.setattr(rental.provider, "create", answer)
    with pytest.raises(NoCapacity):
        rental.create(order, price=_PRICE, until=rental.clock.now() + timedelta(hours=5))
    create(order)  # what was asked for first is done only now
    receipt = rental.tear_down()
    assert not simulator.left()
    assert receipt.dollars == pytest.approx(_PRICE)


def test_a_deletion_that_fails_in_an_unforeseen_way_keeps_no_other_alive(
    rental: Rental, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = _create(rental)
    delete = rental.provider.delete

    def strange(kind: Kind, id: int) -> None:
        if kind is Kind.INSTANCE:
            raise OverflowError
        delete(kind, id)

    monkeypatch.setattr(rental.provider, "delete", strange)
    with pytest.raises(Failure, match="OverflowError") as caught:
        rental.tear_down()
    assert caught.value.cause is Cause.LEAKED
    assert [thing.label for thing in simulator.left()] == [machine.label]


def test_a_forged_note_deletes_nothing_of_others(
    rental: Rental, simulator: Simulator, provider: Linode, store: Store, clock: Clock
) -> None:
    """Whoever can write the bucket can write notes; the thing itself has to say that it is ours."""
    until = clock.now() + timedelta(hours=1)
    for kind in (Kind.INSTANCE, Kind.VOLUME, Kind.KEY, Kind.SCRIPT):
        foreign = simulator.add_foreign(kind, f"production-{kind}", ["prod"] * (kind in TAGGED))
        name = f"production-{kind}"
        forged = Intent(kind=kind, label=name, time=clock.now(), until=until)
        notes = Intents(store, RUN)
        notes.intend(forged)
        notes.created(forged, Thing(kind, foreign, label(RUN, "t"), created=until))
    with pytest.raises(Failure, match="whatever the store says") as caught:
        Rental(provider, store, RUN, clock=clock, say=lambda line: None).tear_down()
    assert caught.value.cause is Cause.LEAKED
    assert not simulator.touched


def test_a_note_cannot_earn_money(clock: Clock) -> None:
    for price in (-1000.0, float("nan"), float("inf")):
        with pytest.raises(ValidationError):
            Intent(
                kind=Kind.INSTANCE,
                label="x",
                time=clock.now(),
                until=clock.now(),
                dollars_per_hour=price,
            )


def test_a_refused_create_leaves_no_open_intent(rental: Rental, simulator: Simulator) -> None:
    order = _order(rental)
    simulator.faults.add("no_capacity")
    with pytest.raises(NoCapacity):
        rental.create(order, price=_PRICE, until=rental.clock.now() + timedelta(hours=5))
    assert all(line.kind is Kind.FIREWALL for line in rental.receipt().lines)
    rental.tear_down()
    assert not simulator.left()


def test_the_intent_comes_first(
    rental: Rental, simulator: Simulator, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that takes no intent lets nothing be created."""
    order = _order(rental)
    monkeypatch.setattr(store, "write", _full)
    with pytest.raises(Failure):
        rental.create(order, until=rental.clock.now())
    assert not [thing for thing in simulator.left() if thing.kind == "instance"]


def _full(*_: object) -> None:
    raise Failure(Cause.STORE, "The store is full.", permanent=True)


def test_a_store_that_fails_keeps_nothing_from_being_deleted(
    rental: Rental, simulator: Simulator, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _create(rental)
    monkeypatch.setattr(store, "write", _full)
    with pytest.raises(Failure, match="store is full"):
        rental.tear_down()
    assert not simulator.left()


def test_a_key_whose_secret_was_lost_is_known_and_deleted(
    rental: Rental, simulator: Simulator
) -> None:
    simulator.add_foreign("key", label(RUN, "k"))  # the same label, somebody else's
    endpoint = "https://us-ord-1.linodeobjects.com"
    order = KeyOrder(label(RUN, "k"), "photos", endpoint)
    simulator.faults.add("acted_502", method="POST", path="/object-storage/keys", times=1)
    with pytest.raises(Unclear, match="secret is lost"):
        rental.create(order, until=rental.clock.now() + timedelta(hours=1))
    again = rental.create(
        KeyOrder(label(RUN, "k", 2), "photos", endpoint),
        until=rental.clock.now() + timedelta(hours=1),
    )
    assert isinstance(again, BucketKey)
    assert again.secret_key not in repr(again)
    assert len(simulator.left()) == 2
    rental.tear_down()
    assert not simulator.left()


def test_a_delete_that_lingers_is_waited_for(rental: Rental, simulator: Simulator) -> None:
    machine = _create(rental)
    simulator.faults.add("delete_lingers", label=machine.label, seconds=240)
    receipt = rental.tear_down()
    (line,) = (line for line in receipt.lines if line.kind is Kind.INSTANCE)
    assert line.gone
    assert line.created
    assert not simulator.left()


def test_what_cannot_be_shown_gone_is_leaked(
    rental: Rental, simulator: Simulator, store: Store
) -> None:
    machine = _create(rental)
    simulator.faults.add("delete_fails", label=machine.label)
    with pytest.raises(Failure) as caught:
        rental.tear_down()
    assert caught.value.cause is Cause.LEAKED
    for said in (machine.label, str(machine.id), "$0.52/h", "reap --delete"):
        assert said in str(caught.value)
    receipt = store.read(run_key(RUN, "receipt.json"), Receipt)
    assert receipt
    assert [line.label for line in receipt.leaked if line.kind is Kind.INSTANCE] == [machine.label]


def test_one_listing_without_it_proves_nothing(rental: Rental, simulator: Simulator) -> None:
    machine = _create(rental)
    simulator.faults.add("delete_lingers", label=machine.label, seconds=240)
    simulator.faults.add("stale_listing", label=machine.label, times=1)
    rental.tear_down()
    assert not simulator.left()


def test_another_controller_tears_down_what_the_first_one_left(
    rental: Rental, simulator: Simulator, provider: Linode, store: Store, clock: Clock
) -> None:
    _create(rental)
    other = Rental(provider, store, RUN, clock=clock, say=lambda line: None)
    receipt = other.tear_down()
    assert not simulator.left()
    assert receipt.dollars == pytest.approx(_PRICE)


def test_a_kept_machine_stays_with_its_firewall(rental: Rental, simulator: Simulator) -> None:
    machine = _create(rental)
    rental.keep(machine.label, label(RUN, "f"))
    receipt = rental.tear_down()
    assert not receipt.leaked
    assert {thing.kind for thing in simulator.left()} == {"instance", "firewall"}
    assert all(line.kept_until for line in receipt.lines)


def test_every_attempt_counts(rental: Rental) -> None:
    first = _create(rental)
    rental.release(first.label)
    _create(rental, 2)
    assert rental.receipt().dollars == pytest.approx(2 * _PRICE)
    # What is there may cost its whole lease, of five hours.
    assert rental.committed() == pytest.approx(6 * _PRICE)
    rental.tear_down()


def test_an_expired_token_is_told_as_a_leak_with_its_cause(
    rental: Rental, simulator: Simulator
) -> None:
    _create(rental)
    simulator.faults.add("expired_token")
    with pytest.raises(Failure, match="token") as caught:
        rental.tear_down()
    assert caught.value.cause is Cause.LEAKED


def test_a_script_the_provider_refuses_is_not_retried(rental: Rental) -> None:
    order = ScriptOrder("voc-train-x", "no shebang", "voc-train, run " + RUN)
    with pytest.raises(Refused):
        rental.create(order, until=rental.clock.now())
    assert not rental.receipt().lines


def test_absence_counts_only_after_two_listings(
    rental: Rental, simulator: Simulator, provider: Linode, store: Store, clock: Clock
) -> None:
    """The first controller died before it could note the id; one listing is older than that."""
    machine = _create(rental)
    store.delete(run_key(RUN, "intents", f"instance-{machine.label}.created.json"))
    simulator.faults.add("stale_listing", label=machine.label, times=1)
    Rental(provider, store, RUN, clock=clock, say=lambda line: None).tear_down()
    assert not simulator.left()


def test_a_creation_that_the_store_did_not_take_is_noted_at_its_end(
    rental: Rental,
    simulator: Simulator,
    provider: Linode,
    store: Store,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else whoever goes on with the run would spend its dollars again."""
    order = _order(rental)
    intend = store.write

    def refuse(key: str, model: BaseModel) -> None:
        if "instance" in key and ".created" in key:
            raise Failure(Cause.STORE, "The store is away.")
        intend(key, model)

    monkeypatch.setattr(store, "write", refuse)
    with pytest.raises(Failure, match="away"):
        rental.create(order, price=_PRICE, until=clock.now() + timedelta(hours=5))
    monkeypatch.undo()
    rental.release(order.label)
    assert not [thing for thing in simulator.left() if thing.kind == "instance"]
    again = Rental(provider, store, RUN, clock=clock, say=lambda line: None)
    assert again.committed() == pytest.approx(_PRICE)
    again.tear_down()


def test_what_was_never_answered_for_counts_as_spent(
    rental: Rental, provider: Linode, store: Store, clock: Clock
) -> None:
    """The controller died before the answer: the next one must not rent for the same dollars."""
    machine = _create(rental)
    store.delete(run_key(RUN, "intents", f"instance-{machine.label}.created.json"))
    again = Rental(provider, store, RUN, clock=clock, say=lambda line: None)
    assert again.committed() == pytest.approx(5 * _PRICE)
    again.tear_down()
