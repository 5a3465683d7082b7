"""Computers: processes with a home of their own, which do one errand and say how it ended."""

import json
import multiprocessing
import os
import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
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
    """One after the other; two at a time only where one replaces another that sleeps."""

    def __init__(self, folder: Path) -> None:
        self._working: int | None = None
        self._heirs: list[Future[Ending]] = []
        self._beside = ThreadPoolExecutor(1)
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["chaos.forked_from"])
        # Before there are threads: a process that is forked off must not inherit their locks.
        self.do(Errand("", {"VOC_TRAIN_STORE": "file:///nowhere"}, str(folder / "first")))

    def do(self, errand: Errand) -> Ending:
        """Have one do that, and wait for its end."""
        process = self._begun(errand)
        self._working = process.pid
        try:
            return self._end_of(process, errand)
        finally:
            self._working = None

    def replace(self, errand: Errand, asleep: float | None) -> None:
        """Stop the one that works, have another one do that, and wake the first.

        It is asleep for so many seconds of the other's work, or until the end of that.
        """
        self.kill(signal.SIGSTOP)
        heir = self._beside.submit(lambda: self._end_of(self._begun(errand), errand))
        self._heirs.append(heir)
        wait([heir], asleep)
        self.kill(signal.SIGCONT)

    def successors(self) -> list[Ending]:
        """How those ended that replaced the one that worked last."""
        endings = [heir.result() for heir in self._heirs]
        self._heirs.clear()
        return endings

    def _begun(self, errand: Errand) -> ForkServerProcess:
        process = self._processes.Process(target=controller.do, args=(errand,))
        process.start()
        return process

    def _end_of(self, process: ForkServerProcess, errand: Errand) -> Ending:
        began = time.monotonic()
        ends = _ENDS * (3 if errand.dataset else 1)
        process.join(ends)
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
