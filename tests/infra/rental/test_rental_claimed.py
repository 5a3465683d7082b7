"""A controller that was replaced does no harm, at whatever moment it hears of it."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from infra.clock import Clock
from infra.failure import Cause, Failure
from infra.intents import Intents
from infra.linode import Linode
from infra.ownership import label, tags
from infra.provider import FirewallOrder, KeyOrder
from infra.receipt import read_receipt
from infra.rental import Rental
from infra.simulator import Simulator
from infra.simulator.faults import Effect
from infra.stores import Store

RUN = "261121-4k2ra"
SERVER = "https://us-ord-1.linodeobjects.com"


class Holder:
    """The right to drive a run, which is lost after so many more questions, or cannot be seen."""

    def __init__(self) -> None:
        self.questions = 1_000
        self.lost = Failure(Cause.CLAIMED, "Run r is driven by another computer.")

    def __call__(self) -> None:
        self.questions -= 1
        if self.questions < 0:
            raise self.lost


@pytest.fixture
def holder() -> Holder:
    return Holder()


@pytest.fixture
def driven(provider: Linode, store: Store, clock: Clock, holder: Holder) -> Rental:
    return Rental(provider, store, RUN, clock=clock, say=lambda line: None, must_hold=holder)


def create(rental: Rental, part: str = "f") -> None:
    until = rental.clock.now() + timedelta(hours=2)
    if part == "f":
        order = FirewallOrder(label(RUN, "f"), tags(RUN, until), ("192.0.2.1/32",))
        rental.create(order, until=until)
    else:
        rental.create(KeyOrder(label(RUN, "k"), "photos", SERVER), until=until)


def is_claimed(act: Callable[[], object]) -> None:
    with pytest.raises(Failure) as caught:
        act()
    assert caught.value.cause is Cause.CLAIMED


@pytest.mark.parametrize("part", ["f", "k"])
def test_it_creates_nothing(
    part: str, driven: Rental, holder: Holder, simulator: Simulator, store: Store
) -> None:
    holder.questions = 0
    is_claimed(lambda: create(driven, part))
    assert simulator.left() == []
    assert Intents.load(store, RUN).entries() == []


@pytest.mark.parametrize("part", ["f", "k"])
def test_what_it_created_meanwhile_is_taken_back(
    part: str, driven: Rental, holder: Holder, simulator: Simulator
) -> None:
    holder.questions = 1
    is_claimed(lambda: create(driven, part))
    assert simulator.left() == []


@pytest.mark.parametrize("part", ["f", "k"])
def test_what_it_created_unheard_is_taken_back_as_well(
    part: str, driven: Rental, holder: Holder, simulator: Simulator
) -> None:
    simulator.faults.add(Effect.ACTED_502, method="POST", times=1)
    holder.questions = 1
    is_claimed(lambda: create(driven, part))
    assert simulator.left() == []


def test_what_its_successor_created_is_left_alone(
    driven: Rental, rental: Rental, holder: Holder, simulator: Simulator, clock: Clock
) -> None:
    create(rental)
    clock.sleep(60)
    holder.questions = 1
    is_claimed(lambda: create(driven))
    assert len(simulator.left()) == 1


def test_a_refusal_says_nothing_of_what_its_successor_created(
    driven: Rental, holder: Holder, simulator: Simulator, store: Store
) -> None:
    simulator.faults.add(Effect.SERVER_ERROR, method="POST", status=400)
    holder.questions = 1
    is_claimed(lambda: create(driven))
    (entry,) = Intents.load(store, RUN).entries()
    assert entry.open


def test_it_leaves_no_receipt(
    driven: Rental, holder: Holder, simulator: Simulator, store: Store
) -> None:
    create(driven)
    holder.questions = 1
    is_claimed(driven.tear_down)
    assert simulator.left() == []
    assert read_receipt(store, RUN) is None


def test_it_does_not_go_on_with_what_it_could_not_take_back(
    driven: Rental, holder: Holder, simulator: Simulator, store: Store
) -> None:
    simulator.faults.add(Effect.SERVER_ERROR, method="DELETE")
    holder.questions = 1
    is_claimed(lambda: create(driven))
    (entry,) = Intents.load(store, RUN).entries()
    assert entry.open


def test_it_deletes_nothing(driven: Rental, holder: Holder, simulator: Simulator) -> None:
    create(driven)
    holder.questions = 0
    is_claimed(driven.tear_down)
    is_claimed(lambda: driven.release(label(RUN, "f")))
    is_claimed(lambda: driven.replace(label(RUN, "f")))
    assert len(simulator.left()) == 1
    holder.questions = 1_000
    driven.tear_down()
    assert simulator.left() == []


def test_where_the_store_cannot_say_it_deletes(
    driven: Rental, holder: Holder, simulator: Simulator
) -> None:
    create(driven)
    holder.questions, holder.lost = 0, Failure(Cause.STORE, "It does not answer.")
    with pytest.raises(Failure):
        create(driven, "k")
    driven.tear_down()
    assert simulator.left() == []
