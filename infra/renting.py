"""From an offer to a machine that is ready for a job: create, boot, set up, see who it is.

Each phase has its own deadline. A machine that does not come up is deleted before another one is
asked for, and what it cost counts.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from infra.coming_up import ComingUp
from infra.failure import Failure
from infra.lease import lease
from infra.ownership import tags
from infra.provider import (
    BucketKey,
    FirewallOrder,
    InstanceOrder,
    KeyOrder,
    Kind,
    NoCapacity,
    Offer,
    Refused,
    ScriptOrder,
    Thing,
    Unclear,
)
from infra.rental import Rental
from infra.rented import Rented
from infra.ssh.keys import KeyPair, cloud_config
from infra.stackscripts import published

_AGAIN = 60.0  # seconds until offers that had nothing are asked again
_TRIES = 2  # machines until one that does not boot, or cannot be set up, is called a failure
_KEYS = 3  # keys that are minted before lost answers are called a failure


@dataclass(frozen=True)
class Wanted:
    """What to rent, and for how much."""

    offers: tuple[Offer, ...]  # best first
    budget: float  # dollars, all attempts together
    hours: float  # at the most
    script: str  # name of the StackScript that sets it up
    requirements: str  # pinned Python packages, with spaces between
    disk_bytes: int = 0  # what the job needs beside the system
    part: str = "t"  # one letter, which tells a run's machines apart


def open_firewall(rental: Rental, ssh_from: tuple[str, ...], hours: float) -> Thing:
    """The firewall of a run's machines: SSH from these networks, nothing else comes in."""
    until = _latest(rental, hours)
    order = FirewallOrder(rental.next_label("f"), tags(rental.run_id, until), ssh_from)
    made = rental.create(order, until=until)
    assert isinstance(made, Thing)
    return made


def mint_key(rental: Rental, bucket: str, endpoint: str, hours: float) -> BucketKey:
    """A key for one bucket; another one where the answer with its secret was lost."""
    until = _latest(rental, hours)
    for number in range(1, _KEYS + 1):
        try:
            order = KeyOrder(rental.next_label("k"), bucket, endpoint)
            made = rental.create(order, until=until)
        except Unclear:
            if number == _KEYS:
                raise
            continue
        if isinstance(made, BucketKey):
            return made
    raise AssertionError


def _latest(rental: Rental, hours: float) -> datetime:
    """When nothing of a run can be needed any more, however its machines are had."""
    patience = 2 * rental.patience.capacity
    return rental.clock.now() + timedelta(seconds=patience, hours=2 * math.ceil(hours) + 1)


def rent(rental: Rental, wanted: Wanted, firewall: Thing) -> Rented:
    """Rent the first offer that can be had, and set it up.

    Raises Failure with the cause of the phase that failed; the rental's tear-down deletes what is
    left of it.
    """
    key = KeyPair.generate(f"voc-train-{rental.run_id}")
    tries = 0
    for offer in _walk(rental, wanted.offers):
        try:
            right = lease(
                rental.clock.now(),
                offer.dollars_per_hour,
                wanted.budget,
                spent=rental.committed(),
                most_hours=wanted.hours,
            )
        except Failure as failure:  # another one may be cheaper
            if offer.dollars_per_hour <= min(o.dollars_per_hour for o in wanted.offers):
                raise
            rental.say(str(failure))
            continue
        host_key = KeyPair.generate("voc-train")
        script = _publish(rental, wanted, right.until)
        order = InstanceOrder(
            label=rental.next_label(wanted.part),
            tags=tags(rental.run_id, right.until),
            plan=offer.plan,
            region=offer.region,
            authorized_key=key.public,
            user_data=cloud_config(host_key),
            firewall=firewall.id,
            script=script.id,
            script_data={"requirements": wanted.requirements},
        )
        try:
            made = rental.create(order, price=offer.dollars_per_hour, until=right.until)
        except NoCapacity as none:
            rental.say(str(none))
            continue
        except Refused:
            if rental.provider.get(Kind.SCRIPT, script.id):
                raise
            continue  # another run, whose script it was, took it away: publish it again
        assert isinstance(made, Thing)
        rental.reached("created", f"{offer.title} in {offer.region}, id {made.id}")
        coming = ComingUp(rental, offer, right, key, host_key, wanted.script, wanted.disk_bytes)
        try:
            return coming.up(made)
        except Failure as failure:
            tries += 1
            if not failure.of_the_machine or tries == _TRIES:
                raise
            rental.say(f"{failure} It is deleted, and another one tried.")
            rental.replace(made.label)
    raise NoCapacity(
        f"No machine could be had within {rental.patience.capacity / 60:.0f} minutes, whichever "
        f"of {len(wanted.offers)} offers was asked for; try later, or name another --plan or "
        "--region. `voc-train plan` shows what there is."
    )


def _walk(rental: Rental, offers: tuple[Offer, ...]) -> Iterator[Offer]:
    """Every offer in turn, again and again while there is patience."""
    give_up = rental.clock.now() + timedelta(seconds=rental.patience.capacity)
    while offers:
        yield from offers
        if rental.clock.now() > give_up:
            return
        rental.clock.sleep(_AGAIN)


def _publish(rental: Rental, wanted: Wanted, until: datetime) -> Thing:
    def create(order: ScriptOrder) -> Thing:
        # Scripts carry no tags: this is how the reaper knows which intents to look into.
        said = f"{order.description} First used by run {rental.run_id}."
        made = rental.create(replace(order, description=said), until=until)
        assert isinstance(made, Thing)
        return made

    return published(rental.provider, wanted.script, create)
