"""A machine on its way from created to ready: it boots, shows its key, sets itself up, suits.

Each step has its own deadline.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from infra.failure import Cause, Failure
from infra.lease import Lease
from infra.provider import Endpoint, Kind, Offer, Thing, Unclear
from infra.rental import Rental
from infra.rented import Rented
from infra.ssh import Connection, Lost
from infra.ssh.first_login import rotate_host_key, wait_for_ssh
from infra.ssh.keys import KeyPair
from infra.ssh.line import Line

_RESULT, _LOG = "/root/stackscript.result", "/root/stackscript.log"
_HOW_FAR = f"head -c 4096 {_RESULT} 2>/dev/null; echo; tail -n 1 {_LOG} 2>/dev/null || true"
_LOOK = 5.0  # seconds between two looks at a machine that comes up
_SKEW = 300.0  # seconds; object storage refuses requests that are 15 minutes off


@dataclass
class ComingUp:
    """One machine on its way from created to ready."""

    rental: Rental
    offer: Offer
    lease: Lease
    key: KeyPair
    host_key: KeyPair
    script: str  # name of the StackScript
    disk_bytes: int  # what the job needs beside the system

    def up(self, created: Thing) -> Rented:
        """Wait until it is ready. Raises Failure(BOOT_TIMEOUT), (SETUP_FAILED) or (HOST_KEY)."""
        instance = self._booted(created)
        assert instance.endpoint is not None
        line = Line(partial(self._log_in, instance.endpoint))
        try:
            with line.connection():
                self.rental.reached("set-up", f"logged in, {self.script} runs")
            self._set_up(line)
            with line.connection() as connection:
                self._must_suit(connection)
                fresh = rotate_host_key(connection)
        finally:
            line.close()
        rented = Rented(instance, self.offer, self.lease, self.key, fresh)
        with rented.connect():  # it is who it was, by the key that nobody but itself has seen
            self.rental.say(f"{instance.label} is ready at {instance.endpoint.host}")
        return rented

    def _log_in(self, endpoint: Endpoint) -> Connection:
        return wait_for_ssh(
            endpoint,
            key=self.key,
            host_key=self.host_key.public,
            timeout=self.rental.patience.login,
            clock=self.rental.clock,
        )

    def _booted(self, created: Thing) -> Thing:
        state, absent = "", 0
        for _ in self._looks(self.rental.patience.boot):
            try:
                there = self.rental.provider.get(Kind.INSTANCE, created.id)
            except Unclear:
                continue
            if there is None:
                absent += 1
                if absent == 2:  # a single look may be older than the creation
                    raise Failure(Cause.BOOT_TIMEOUT, f"{created.label} vanished while it booted.")
                continue
            absent = 0
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

    def _set_up(self, line: Line) -> None:
        latest = ""
        for _ in self._looks(self.rental.patience.set_up):
            try:
                with line.connection() as connection:
                    said = connection.run(_HOW_FAR)
                    result, _, last = said.partition("\n")
                    if result.strip():
                        self._judge(connection, result)
                        return
            except Lost:  # the machine may be well: the next look logs in again
                continue
            if last.strip() and last != latest:
                latest = last
                self.rental.reached("set-up", last.strip()[:200])
        raise Failure(
            Cause.SETUP_FAILED,
            f"The set-up did not end within {self.rental.patience.set_up / 60:.0f} minutes; the "
            f"last it said was: {latest.strip()}",
        )

    def _judge(self, connection: Connection, result: str) -> None:
        try:
            ended = json.loads(result)
            code = int(ended["code"])
        except (ArithmeticError, KeyError, RecursionError, TypeError, ValueError):
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
        said = connection.run("date +%s; df -B1 --output=avail / | tail -n 1")
        try:
            clock, free = (int(word) for word in said.split())
        except ValueError:
            raise Failure(
                Cause.SETUP_FAILED, "The machine does not say what time it is and what disk it has."
            ) from None
        skew = abs(clock - time.time())  # processes live in real time
        if skew > _SKEW:
            raise Failure(
                Cause.SETUP_FAILED,
                f"The machine's clock and this computer's differ by {skew / 60:.0f} minutes, and "
                "object storage refuses such requests; set this computer's clock (NTP), or try "
                "another machine.",
            )
        if free < self.disk_bytes:
            raise Failure(
                Cause.BAD_INPUT,
                f"The disk of {self.offer.plan} has {free / 1e9:.1f} GB free, and the job "
                f"needs {self.disk_bytes / 1e9:.1f} GB; name a larger --plan or a smaller "
                "--max-side, or let shards come when their turn comes (--set stream_gb=…).",
            )

    def _looks(self, patience: float) -> Iterator[None]:
        """Look now and then, for as long as there is patience and the lease holds."""
        clock = self.rental.clock
        give_up = min(clock.now() + timedelta(seconds=patience), self.lease.until)
        while clock.now() < give_up:
            yield
            clock.sleep(_LOOK)
