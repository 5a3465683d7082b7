"""A rented machine that is ready for a job, and how it is doing."""

import math
from dataclasses import dataclass

from infra.failure import Failure
from infra.lease import Lease
from infra.machines import MachineState
from infra.provider import Endpoint, Kind, Offer, Thing
from infra.rental import Rental
from infra.ssh import Connection
from infra.ssh.keys import KeyPair

PYTHON = "/opt/voc-train/venv/bin/python"  # which the StackScripts make
_WATCH = 20.0  # seconds between two looks at one that works


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
            except Failure:  # even a token that has expired: the job has no need of it
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
