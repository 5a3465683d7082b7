"""A machine behind SSH: rented, or a host that the user has."""

import contextlib
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from infra.agent import GRACE, LAST_UPLOAD, UNSENT
from infra.failure import Failure
from infra.handover import install, launch, run_folder, start_agent
from infra.launch import JOB, LOG
from infra.machines import MachineState
from infra.protocol import Result
from infra.ssh import Connection
from infra.ssh.line import Line
from infra.stores import Store
from infra.wheel import Wheel, build_wheel

_DEAF = 60.0  # seconds that a machine may not answer while its agent is being stopped
_LOOK = 1.0  # seconds between two looks at what is ending
_FRESH = 5.0  # seconds for which an answer holds


class RemoteMachine:
    """Runs the agent on the machine that `connect` opens a connection to.

    `python` is the interpreter there, with all that the job needs. `store_url` is the store as the
    machine sees it, where that is not as we do. `secrets` is the agent's environment. `state` asks
    whoever rented the machine out, and has the agent go on by itself after a reboot; without it,
    the agent is looked for over SSH, and keeps no keys on the disk. `run_id` is given
    when an earlier controller started the run.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        python: str,
        store_url: str | None,
        secrets: Mapping[str, str],
        where: str,
        state: Callable[[], MachineState] | None = None,
        *,
        wheel: Wheel | None = None,
        run_id: str | None = None,
        fresh: float = _FRESH,
    ) -> None:
        self.where = where
        self._line = Line(connect)
        self._python = python
        self._store_url = store_url
        self._secrets = secrets
        self._ask = state
        self._wheel = wheel
        self._run_id = run_id
        self._fresh = fresh
        self._code: str | None = None
        self._last: tuple[float, MachineState] | None = None

    def start(self, store: Store, run_id: str) -> None:
        """Hand the run over; returns when the agent runs.

        Raises Failure(SETUP_FAILED) when it does not start, NotYet or Lost when SSH fails.
        """
        self._run_id = run_id
        self._last = None
        with self._line.connection() as connection:
            start_agent(
                connection,
                self._python,
                self._installed(connection),
                store_url=self._store_url or store.url,
                run_id=run_id,
                secrets=self._secrets,
                restart=self._ask is not None,
            )

    def state(self) -> MachineState:
        """Whether the agent works, or whoever rented the machine out still has it."""
        if self._ask:
            return self._ask()
        now = time.monotonic()
        if self._last is None or now > self._last[0] + self._fresh:
            self._last = (now, self._look())
        return self._last[1]

    def stop(self, *, hurry: bool = False) -> None:
        """Stop the agent and, unless in a `hurry`, wait until it has sent its last word.

        Then it is killed, and so it is when whoever waits is interrupted. Returns when the machine
        does not answer for a minute.
        """
        if self._run_id is None or (self._ask and self._ask() == "gone"):
            return
        try:
            if not hurry:
                self._wait_for_the_end()
        finally:
            with contextlib.suppress(Failure):
                self._launch("kill")
            self._last = None
            self._line.close()

    def clean(self) -> None:
        """Remove the run's folder there."""
        with contextlib.suppress(Failure), self._folder() as (connection, folder):
            connection.run(f"rm -rf -- {shlex.quote(folder)}")
        self._line.close()

    def unsent_result(self) -> Result | None:
        """How the job ended, where the agent could not tell the store."""
        try:
            with self._folder() as (connection, folder):
                return Result.model_validate_json(connection.get(f"{folder}/{JOB}/{UNSENT}") or b"")
        except (Failure, OSError, ValueError):
            return None

    def last_words(self) -> str:
        """The last line of the agent's own log."""
        try:
            with self._folder() as (connection, folder):
                said = connection.run(f"tail -n 1 {shlex.quote(f'{folder}/{LOG}')}")
        except Failure as failure:
            return str(failure)
        return said.strip() or "it said nothing"

    def _look(self) -> MachineState:
        try:
            return "running" if self._launch("state").strip() == "running" else "gone"
        except Failure:
            return "unknown"

    def _wait_for_the_end(self) -> None:
        """Until the agent has ended, nobody answers for long, or patience is over."""
        begun = heard = time.monotonic()
        told = False
        while time.monotonic() < begun + GRACE + LAST_UPLOAD:
            try:
                if not told:
                    self._launch("stop")
                    told = True
                if self._launch("state").strip() != "running":
                    return
                heard = time.monotonic()
            except Failure as failure:
                # Whoever shows another host key will not be the machine again.
                if failure.permanent or time.monotonic() > heard + _DEAF:
                    return
            time.sleep(_LOOK)

    def _launch(self, what: str) -> str:
        with self._folder() as (connection, folder):
            return connection.run(launch(self._python, self._installed(connection), what, folder))

    @contextmanager
    def _folder(self) -> Iterator[tuple[Connection, str]]:
        assert self._run_id is not None
        with self._line.connection() as connection:
            yield connection, run_folder(connection, self._run_id)

    def _installed(self, connection: Connection) -> str:
        if self._code is None:
            self._code = install(connection, self._python, self._wheel or build_wheel())
        return self._code
