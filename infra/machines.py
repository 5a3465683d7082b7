"""Machines: computers that run a job, this one to begin with; agent and store do the rest."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

from infra.agent import GRACE, LAST_UPLOAD, UNSENT
from infra.failure import Cause, Failure
from infra.launch import AGENT, GROUP
from infra.processes import end_group, noted_group
from infra.protocol import Result
from infra.stores import Store
from infra.uninterrupted import uninterrupted

_LOOK = 0.02  # seconds between two looks at what is ending


MachineState = Literal["running", "gone", "unknown"]


class Machine(Protocol):
    """A computer that runs the job of one run."""

    @property
    def where(self) -> str:
        """What people call it."""

    def start(self, store: Store, run_id: str) -> None:
        """Start the agent for a run whose spec is in the store; returns as soon as it runs.

        Raises Failure when it could not be started; then nothing of it runs.
        """

    def state(self) -> MachineState:
        """Whether the job is being worked on.

        "gone" is for good: the agent has ended, or the machine is no more. Of a rented machine
        "running" says only that it is there; whether its agent works shows in the heartbeat.
        "unknown" is when it cannot be said just now, which is no reason to give up: ask again.
        """

    def stop(self, *, hurry: bool = False) -> None:
        """Ask the agent to stop; returns when it has sent its last word, or cannot.

        In a `hurry` it is killed, since nothing is expected from it any more. Harmless when it has
        ended, or was never started. Where the machine does not answer, this returns all the same:
        whoever rented it has to delete it anyway.
        """

    def clean(self) -> None:
        """Remove the run's files from it. Best effort: never raises, and never waits for long."""

    def unsent_result(self) -> Result | None:
        """How the job ended, where the agent could not tell the store; None if nobody knows."""

    def last_words(self) -> str:
        """The last line of the agent's own log, for when there is no result."""


class LocalMachine:
    """This computer: the agent is a detached child process with a folder for the job."""

    where = "this computer"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._job = folder / "job"
        self._agent: subprocess.Popen[bytes] | None = None

    def start(self, store: Store, run_id: str) -> None:
        """Start the agent for a run whose spec is in the store; returns at once.

        Raises Failure(STORE) where the job's folder cannot be written.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            log = (self._folder / "agent.log").open("ab")
        except OSError as error:
            raise Failure(
                Cause.STORE,
                f"{self._folder} cannot be written ({error.strerror}); make room there, mend its "
                "rights, or take another folder.",
            ) from error
        command = [sys.executable, "-m", "infra.agent", "--store", store.url, "--run", run_id]
        with log:
            self._agent = subprocess.Popen(
                [*command, "--job", str(self._job), "--poll", "0.5"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C in the terminal is ours to pass on, after which we wait for the result.
                start_new_session=True,
            )

    def state(self) -> MachineState:
        """Whether the agent is running; here that is always known."""
        return "running" if self.alive() else "gone"

    def alive(self) -> bool:
        """Whether the agent is running."""
        return self._agent is not None and self._agent.poll() is None

    def stop(self, *, hurry: bool = False) -> None:
        """Stop the job and wait until nothing of it runs; harmless when it has ended.

        Whoever interrupts the wait has all of it killed at once; the interrupt goes on when
        nothing runs any more.
        """
        ending = _Ending(self._agent, self._job)
        if hurry:
            ending.hasten()
        uninterrupted(ending.run, meanwhile=ending.hasten)

    def clean(self) -> None:
        """Remove the job's folder; the store has all of it once there is a result."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def unsent_result(self) -> Result | None:
        """How the job ended, where the agent could not tell the store."""
        try:
            return Result.model_validate_json((self._job / UNSENT).read_bytes())
        except (OSError, ValueError):  # there is none, or this disk was full as well
            return None

    def last_words(self) -> str:
        """The end of the agent's own log, for when there is no result."""
        log = self._folder / "agent.log"
        lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        return lines[-1] if lines else "it said nothing"


class _Ending:
    """Ends the agent, which ends its job; then the job, if the agent could not."""

    def __init__(self, agent: "subprocess.Popen[bytes] | None", job: Path) -> None:
        """`agent` is our child; without one, an earlier controller's is looked for."""
        self._hurry = False
        self._agent = agent
        self._job = job

    def hasten(self) -> None:
        """Wait for nothing any more: kill at once."""
        self._hurry = True

    def run(self) -> None:
        """Returns when nothing runs any more."""
        if self._agent:
            self._end_child(self._agent)
        else:
            self._end_noted(self._job / AGENT, GRACE + LAST_UPLOAD)
        self._end_noted(self._job / GROUP, GRACE)

    def _end_child(self, agent: "subprocess.Popen[bytes]") -> None:
        agent.terminate()
        if not self._comes_true(lambda: agent.poll() is not None, GRACE + LAST_UPLOAD):
            end_group(agent)

    def _end_noted(self, note: Path, patience: float) -> None:
        group = noted_group(note)
        if group is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(group, signal.SIGTERM)
            if not self._comes_true(lambda: noted_group(note) is None, patience):
                os.killpg(group, signal.SIGKILL)
        while noted_group(note):
            time.sleep(_LOOK)

    def _comes_true(self, true: Callable[[], bool], patience: float) -> bool:
        """Whether it does within `patience` seconds; a hurry ends the wait."""
        until = time.monotonic() + patience
        while not (came := true()) and time.monotonic() < until and not self._hurry:
            time.sleep(_LOOK)
        return came
