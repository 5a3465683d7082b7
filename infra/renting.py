"""From an offer to a machine that is ready for a job: create, boot, set up, see who it is.

Each phase has its own deadline. A machine that does not boot is deleted before another one is asked
for, and what it cost counts.
"""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from infra.failure import Cause, Failure
from infra.lease import Lease, lease
from infra.machines import MachineState
from infra.ownership import tags
from infra.provider import (
    BucketKey,
    Endpoint,
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
from infra.ssh import Connection
from infra.ssh.first_login import rotate_host_key, wait_for_ssh
from infra.ssh.keys import KeyPair, cloud_config
from infra.stackscripts import published

PYTHON = "/opt/voc-train/venv/bin/python"  # which the StackScripts make
_RESULT, _LOG = "/root/stackscript.result", "/root/stackscript.log"
_LOOK = 5.0  # seconds between two looks at a machine that comes up
_WATCH = 20.0  # seconds between two looks at one that works
_AGAIN = 60.0  # seconds until offers that had nothing are asked again
_SKEW = 300.0  # seconds; object storage refuses requests that are 15 minutes off
_BOOTS = 2  # machines that are tried before a boot that does not end is called a failure
_KEYS = 3  # keys that are minted before lost answers are called a failure


@dataclass(frozen=True)
class Wanted:
    """What to rent, and for how much."""

    offers: tuple[Offer, ...]  # best first
    budget: float  # dollars, all attempts together
    hours: float  # at the most
    ssh_from: tuple[str, ...]  # networks, CIDR
    script: str  # name of the StackScript that sets it up
    requirements: str  # pinned Python packages, with spaces between
    disk_bytes: int = 0  # what the job needs beside the system
    part: str = "t"  # one letter, which tells a run's machines apart


@dataclass(frozen=True)
class Rented:
    """A machine that is ready, and known beyond doubt by its host key."""

    instance: Thing
    offer: Offer
    lease: Lease
    key: KeyPair  # who may log in
    host_key: str  # public, one line

    @property
    def endpoint(self) -> Endpoint:
        """Where its sshd listens."""
        assert self.instance.endpoint is not None
        return self.instance.endpoint

    def connect(self) -> Connection:
        """A new connection. Raises NotYet, or Failure(HOST_KEY) when it is another machine."""
        return Connection(self.endpoint, key=self.key, host_key=self.host_key)


class Watch:
    """Says how a rented machine is; asks the provider only now and then."""

    def __init__(self, rental: Rental, instance: Thing) -> None:
        self._rental = rental
        self._id = instance.id
        self._asked = -math.inf
        self._state: MachineState = "running"
        self._absent = 0

    def __call__(self) -> MachineState:
        """How it is; it is gone when it was absent twice, since a single read may be stale."""
        now = self._rental.clock.monotonic()
        if now - self._asked > _WATCH:
            self._asked = now
            try:
                there = self._rental.provider.get(Kind.INSTANCE, self._id)
            except Unclear:
                self._state = "unknown"
            else:
                self._absent = 0 if there else self._absent + 1
                if there or self._absent > 1:
                    self._state = _state(there)
        return self._state


def _state(there: Thing | None) -> MachineState:
    if there is None:
        return "gone"
    return "running" if there.ready else "unknown"


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
    boots = 0
    for offer in _walk(rental, wanted.offers):
        right = lease(
            rental.clock.now(),
            offer.dollars_per_hour,
            wanted.budget,
            spent=rental.committed(),
            most_hours=wanted.hours,
        )
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
        coming = _ComingUp(rental, wanted, offer, right, key, host_key)
        try:
            return coming.up(made)
        except Failure as failure:
            boots += failure.cause is Cause.BOOT_TIMEOUT
            if failure.cause is not Cause.BOOT_TIMEOUT or boots == _BOOTS:
                raise
            rental.say(f"{failure} It is deleted, and another one tried.")
            rental.release(made.label)
    raise NoCapacity(
        f"No machine could be had within {rental.patience.capacity / 60:.0f} minutes, whichever "
        f"of {len(wanted.offers)} offers was asked for; try later, or name another --plan or "
        "--region. `voc-train plan` shows what there is."
    )


def _walk(rental: Rental, offers: tuple[Offer, ...]) -> Iterator[Offer]:
    """Every offer in turn, again and again while there is patience."""
    give_up = rental.clock.now() + timedelta(seconds=rental.patience.capacity)
    while True:
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


@dataclass
class _ComingUp:
    """One machine on its way from created to ready."""

    rental: Rental
    wanted: Wanted
    offer: Offer
    lease: Lease
    key: KeyPair
    host_key: KeyPair

    def up(self, created: Thing) -> Rented:
        """Wait until it is ready. Raises Failure(BOOT_TIMEOUT), (SETUP_FAILED) or (HOST_KEY)."""
        instance = self._booted(created)
        assert instance.endpoint is not None
        with wait_for_ssh(
            instance.endpoint,
            key=self.key,
            host_key=self.host_key.public,
            timeout=self.rental.patience.login,
            clock=self.rental.clock,
        ) as connection:
            self.rental.reached("set-up", f"logged in, {self.wanted.script} runs")
            self._set_up(connection)
            self._must_suit(connection)
            fresh = rotate_host_key(connection)
        rented = Rented(instance, self.offer, self.lease, self.key, fresh)
        with rented.connect():  # it is who it was, by the key that nobody but itself has seen
            self.rental.say(f"{instance.label} is ready at {instance.endpoint.host}")
        return rented

    def _booted(self, created: Thing) -> Thing:
        state = ""
        for _ in self._looks(self.rental.patience.boot):
            try:
                there = self.rental.provider.get(Kind.INSTANCE, created.id)
            except Unclear:
                continue
            if there is None:
                raise Failure(Cause.BOOT_TIMEOUT, f"{created.label} vanished while it booted.")
            if there.state != state:
                state = there.state
                self.rental.reached("booting", state)
            if there.ready:
                return there
        raise Failure(
            Cause.BOOT_TIMEOUT,
            f"{created.label} did not boot within {self.rental.patience.boot / 60:.0f} minutes "
            f"(it is {state or 'unknown'}).",
        )

    def _set_up(self, connection: Connection) -> None:
        latest = ""
        for _ in self._looks(self.rental.patience.set_up):
            said = connection.run(
                f"cat {_RESULT} 2>/dev/null; echo; tail -n 1 {_LOG} 2>/dev/null || true"
            )
            result, _, line = said.partition("\n")
            if result.strip():
                self._judge(connection, result)
                return
            if line.strip() and line != latest:
                latest = line
                self.rental.reached("set-up", line.strip()[:200])
        raise Failure(
            Cause.SETUP_FAILED,
            f"The set-up did not end within {self.rental.patience.set_up / 60:.0f} minutes; the "
            f"last it said was: {latest.strip()}",
        )

    def _judge(self, connection: Connection, result: str) -> None:
        try:
            ended = json.loads(result)
            code = int(ended["code"])
        except (ValueError, TypeError, KeyError):
            raise Failure(Cause.SETUP_FAILED, "The set-up left no readable result.") from None
        if code:
            tail = connection.run(f"tail -n 20 {_LOG} 2>/dev/null").strip()
            self.rental.say(tail)
            raise Failure(
                Cause.SETUP_FAILED,
                f"The set-up failed with code {code} in line {ended.get('line')} "
                f"({ended.get('command')}); it said: {' '.join(tail.splitlines()[-3:])[-500:]}",
            )

    def _must_suit(self, connection: Connection) -> None:
        """Rather now than after an upload: the clock, and room for the data."""
        said = connection.run("date +%s; df -B1 --output=avail / | tail -n 1").split()
        skew = abs(int(said[0]) - time.time())  # processes live in real time
        if skew > _SKEW:
            raise Failure(
                Cause.SETUP_FAILED,
                f"The machine's clock and this computer's differ by {skew / 60:.0f} minutes, and "
                "object storage refuses such requests; set this computer's clock (NTP), or try "
                "another machine.",
            )
        if int(said[1]) < self.wanted.disk_bytes:
            raise Failure(
                Cause.BAD_INPUT,
                f"The disk of {self.offer.plan} has {int(said[1]) / 1e9:.1f} GB free, and the job "
                f"needs {self.wanted.disk_bytes / 1e9:.1f} GB; name a larger --plan, or a smaller "
                "--max-side.",
            )

    def _looks(self, patience: float) -> Iterator[None]:
        """Look now and then, for as long as there is patience and the lease holds."""
        clock = self.rental.clock
        give_up = min(clock.now() + timedelta(seconds=patience), self.lease.until)
        while clock.now() < give_up:
            yield
            clock.sleep(_LOOK)
