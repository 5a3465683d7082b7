"""The agent's sign of life, at an even pace whatever else it waits for."""

import contextlib
import json
import threading
from pathlib import Path
from typing import Self

from infra.failure import Failure
from infra.protocol import AgentState, Heartbeat, now, run_key
from infra.stores import Store


class Pulse:
    """Writes `heartbeat.json` from a thread of its own, between entering and leaving.

    Fetching a dataset or sending a checkpoint may take minutes, in which nobody must think that
    the machine is lost. `progress` is the file in which the job says how far it is.
    """

    def __init__(self, store: Store, run_id: str, progress: Path, every: float) -> None:
        self.state: AgentState = "preparing"
        self._store = store
        self._key = run_key(run_id, "heartbeat.json")
        self._progress = progress
        self._every = every  # seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat_on)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Write no more by itself; harmless when that was said before."""
        self._ended.set()
        self._thread.join()

    def beat(self) -> None:
        """Write one now. Raises Failure(STORE)."""
        heartbeat = Heartbeat(time=now(), state=self.state)
        with contextlib.suppress(OSError, ValueError):  # none yet, or none that can be read
            progress = json.loads(self._progress.read_bytes())
            heartbeat = Heartbeat(time=now(), state=self.state, progress=progress)
        self._store.write(self._key, heartbeat)

    def _beat_on(self) -> None:
        while True:
            with contextlib.suppress(Failure):  # whoever sends more than this says so
                self.beat()
            if self._ended.wait(self._every):
                return
