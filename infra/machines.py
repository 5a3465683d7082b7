"""Machines: computers that run a job. So far this one; the agent and the store do the rest."""

import contextlib
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from infra.agent import GRACE, UNSENT
from infra.processes import end_group
from infra.protocol import Result
from infra.stores import Store

_LAST_UPLOAD = 300.0  # seconds that an agent may take to send the last checkpoint


class LocalMachine:
    """This computer: the agent is a detached child process with a folder for the job."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._job = folder / "job"
        self._agent: subprocess.Popen[bytes] | None = None

    def start(self, store: Store, run_id: str) -> None:
        """Start the agent for a run whose spec is in the store; returns at once."""
        self._folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "infra.agent", "--store", store.url, "--run", run_id]
        with (self._folder / "agent.log").open("ab") as log:
            self._agent = subprocess.Popen(
                [*command, "--job", str(self._job), "--poll", "0.5"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C in the terminal is ours to pass on, after which we wait for the result.
                start_new_session=True,
            )

    def alive(self) -> bool:
        """Whether the agent is running."""
        return self._agent is not None and self._agent.poll() is None

    def stop(self) -> None:
        """Stop the job and wait until nothing of it runs; harmless when it has ended."""
        if self._agent is None:
            return
        if self.alive():
            self._agent.send_signal(signal.SIGTERM)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._agent.wait(GRACE + _LAST_UPLOAD)
        finally:  # it took too long, or for the patience of the person who waits here
            if self.alive():
                end_group(self._agent)

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
