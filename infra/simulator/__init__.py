"""The Linode that lives on this computer: its API, its machines and its bill."""

import getpass
import os
import random
import secrets
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import uvicorn
from starlette.types import ASGIApp

from infra.clock import Clock
from infra.failure import Cause, Failure
from infra.simulator.account import Account, BillLine
from infra.simulator.api import API
from infra.simulator.faults import Faults
from infra.simulator.firewalls import Firewalls
from infra.simulator.foreign import foreign
from infra.simulator.instances import Instances
from infra.simulator.invoices import Invoices
from infra.simulator.schema import Schema
from infra.simulator.scripts import Scripts
from infra.simulator.storage_keys import StorageKeys
from infra.simulator.surroundings import Surroundings
from infra.simulator.things import Instance, Machine, Thing
from infra.simulator.volumes import Volumes

if TYPE_CHECKING:
    from infra.simulator.object_storage import ObjectStorage

_HOST = "127.0.0.1"


class Simulator:
    """A Linode account behind Linode's API, on a loopback address, for as long as it is open.

    `folder` holds machines and Volumes. `port` and `ssh_port` 0 take free ones. Without `machines`
    no process is started, and an instance is nothing but its state. `shares` are folders that
    machines see at their own paths. `tokens` says the scopes of each token, as in
    "linodes:read_write events:read_only", "*" for all; without it there is one that may do
    everything. With `spec` every request is held against that OpenAPI file. `tell` gets a line for
    each request and each change of state.

    Raises Failure(SETUP_FAILED) where machines are wanted and cannot be had, Failure(BAD_INPUT)
    where the port is taken.
    """

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock | None = None,
        port: int = 0,
        ssh_port: int = 0,
        machines: bool = True,
        shares: Sequence[Path] = (),
        tokens: Mapping[str, str] | None = None,
        spec: Path | None = None,
        object_storage: "ObjectStorage | None" = None,
        rate_limits: bool = False,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self._folder = folder
        self._shares = shares
        self._machines = machines
        self._tokens = tokens or {secrets.token_hex(32): "*"}
        self._tell = tell
        self._port = port
        self._ssh_port = ssh_port
        self.clock = clock or Clock()
        self.timeline: list[tuple[datetime, str]] = []
        self.account = Account(self.clock, self._note)
        self._addresses = _addresses()
        self._firewalls = Firewalls(self.account)
        self._storage = StorageKeys(self.account, object_storage)
        invoices = Invoices(self.account)
        self._api = API(
            self.account,
            [
                *Surroundings(self.account, invoices.uninvoiced).operations(),
                *invoices.operations(),
                *Instances(self.account, lambda: next(self._addresses), self._machine).operations(),
                *Volumes(self.account, folder / "volumes" if machines else None).operations(),
                *self._firewalls.operations(),
                *Scripts(self.account).operations(),
                *self._storage.operations(),
            ],
            self._tokens,
            schema=Schema(spec) if spec else None,
            rate_limits=rate_limits,
        )

    def __enter__(self) -> Self:
        if self._machines:
            from infra.simulator.machine import must_be_possible

            must_be_possible()
        # asyncio sends at once, instead of after 40 ms, only on a socket that says its protocol.
        listener = socket.socket(proto=socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((_HOST, self._port))
        except OSError as error:
            listener.close()
            message = f"Port {self._port} cannot be had: {error.strerror}. Choose another one."
            raise Failure(Cause.BAD_INPUT, message) from error
        self._port = listener.getsockname()[1]
        self._ssh_port = self._ssh_port or _free_port()
        listener.listen(128)
        config = uvicorn.Config(
            self._api.app, log_config=None, access_log=False, lifespan="off", ws="none"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="simulator-api", daemon=True
        )
        self._thread.start()
        self.account.schedule.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything that it started; what was still rented stays in `left()`.

        Raises what went wrong unnoticed in what the clock started, such as a machine's boot.
        """
        self._api.release()
        self._server.should_exit = True
        self._thread.join()
        self.account.schedule.close()
        with ExitStack() as ends:  # one that fails keeps no other from its end
            ends.callback(self._storage.close)
            for instance in self.account.all(Instance):
                if instance.machine:
                    ends.callback(instance.machine.destroy)
        if self.account.schedule.errors:
            raise self.account.schedule.errors[0]

    @property
    def url(self) -> str:
        """Where the API answers."""
        return f"http://{_HOST}:{self._port}/v4"

    @property
    def app(self) -> ASGIApp:
        """The API without an address, for who asks from within this process; needs no `with`."""
        return self._api.app

    @property
    def token(self) -> str:
        """The first of its tokens."""
        return next(iter(self._tokens))

    @property
    def faults(self) -> Faults:
        """What goes wrong on request."""
        return self.account.faults

    @property
    def violations(self) -> list[str]:
        """What requests did that the official schema does not allow."""
        return self._api.violations

    @property
    def touched(self) -> list[str]:
        """Requests that would change something of somebody else's."""
        return self._api.touched

    def environment(self) -> dict[str, str]:
        """What a client needs in its environment to find it, and to live in the same time."""
        return {
            "LINODE_URL": self.url,
            "LINODE_TOKEN": self.token,
            "VOC_TRAIN_SSH_PORT": str(self._ssh_port),
            "VOC_TRAIN_SSH_USER": "root" if os.geteuid() == 0 else getpass.getuser(),
            **self.clock.environment(),
        }

    def bill(self) -> list[BillLine]:
        """What was rented, and what it costs until now."""
        with self.account.schedule.lock:
            self.account.schedule.catch_up()
            return self.account.bill()

    def left(self) -> list[Thing]:
        """What is still there of what was created; after `close`, what was when it closed."""
        with self.account.schedule.lock:
            self.account.schedule.catch_up()
            return [thing for thing in self.account.everything() if not thing.foreign]

    def machine(self, label: str) -> Machine:
        """The computer behind an instance. Raises KeyError."""
        for instance in self.account.all(Instance):
            if instance.label == label and instance.machine:
                return instance.machine
        raise KeyError(label)

    def add_foreign(self, kind: str, label: str, tags: Iterable[str] = ()) -> int:
        """Put something of somebody else's into the account; its id. Raises KeyError.

        Requests that would change it are noted in `touched`.
        """
        with self.account.schedule.lock:
            thing = foreign(self.account, kind, label, list(tags))
            self.account.add(thing)
        return thing.id

    def _note(self, text: str) -> None:
        self.timeline.append((self.clock.now(), text))
        if self._tell:
            self._tell(text)

    def _machine(self, instance: Instance) -> Machine | None:
        if not self._machines:
            return None
        from infra.simulator import catalogue
        from infra.simulator.machine import SimulatedMachine

        machine: Machine = SimulatedMachine(
            self._folder / "machines" / str(instance.id),
            instance.address,
            self._ssh_port,
            gpus=catalogue.plan(instance.plan)["gpus"],
            shares=self._shares,
        )
        machine.admits = lambda client: self._firewalls.admits(instance, client)
        return machine


def _addresses() -> Iterator[str]:
    """Loopback addresses; several simulators will hardly begin at the same block."""
    block = random.SystemRandom().randrange(1, 254 * 254)
    while True:
        for last in range(1, 255):
            yield f"127.{1 + block // 254}.{1 + block % 254}.{last}"
        block = (block + 1) % (254 * 254)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])
