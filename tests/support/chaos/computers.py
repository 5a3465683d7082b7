"""Computers: processes with a home of their own, which do one errand and say how it ended."""

import json
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from chaos import controller
from chaos.controller import Errand

_ENDS = 60.0  # seconds within which whatever a controller does has to come to an end


@dataclass(frozen=True)
class Ending:
    """How a process ended: `outcome` is its own word, None where it was killed."""

    outcome: dict[str, str] | None
    seconds: float

    @property
    def word(self) -> str:
        """done, reaped, killed or a cause."""
        return self.outcome.get("cause") or next(iter(self.outcome)) if self.outcome else "killed"


class Computers:
    """One after the other: at most one of them works at a time."""

    def __init__(self, folder: Path) -> None:
        self._working: int | None = None
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["chaos.forked_from"])
        # Before there are threads: a process that is forked off must not inherit their locks.
        self.do(Errand("", {"VOC_TRAIN_STORE": "file:///nowhere"}, str(folder / "first")))

    def do(self, errand: Errand) -> Ending:
        """Have one do that, and wait for its end."""
        began = time.monotonic()
        process = self._processes.Process(target=controller.do, args=(errand,))
        process.start()
        self._working = process.pid
        ends = _ENDS * (3 if errand.dataset else 1)
        process.join(ends)
        self._working = None
        if process.is_alive():
            process.kill()
            process.join()
            outcome = {"cause": "ENDLESS", "message": f"it did not end within {ends:.0f} s"}
        else:
            said = Path(errand.said)
            outcome = json.loads(said.read_text()) if said.exists() else None
        return Ending(outcome, time.monotonic() - began)

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """The one that works."""
        if self._working:
            os.kill(self._working, how)
