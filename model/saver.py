"""Checkpoints off the critical path: the state is copied, then written by a thread of its own.

One is written at a time, whole or not at all (`model/checkpoint.py`); the copy costs memory for one
more state on the CPU.
"""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from model import checkpoint


class Saver:
    """Writes checkpoints into a folder, and keeps the best and the last, and step `keep`'s.

    `newest` is the step of the one that was last begun, or was there before.
    """

    def __init__(self, folder: Path, keep: int | None = None, newest: int | None = None) -> None:
        self.newest = newest
        self._folder = folder
        self._keep = keep
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

    def save(self, description: checkpoint.Description, state: Mapping[str, Any]) -> None:
        """Begin to write a checkpoint, after the one before it; raises what that one met."""
        self.wait()
        self.newest = description.step
        self._pending = self._thread.submit(self._write, description, _copied(state))

    def look(self) -> None:
        """Raise what the checkpoint that is being written has met so far."""
        if self._pending and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Until what was begun is on the disk; OSError where it cannot be written."""
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    def _write(self, description: checkpoint.Description, state: Mapping[str, Any]) -> None:
        checkpoint.save(self._folder, description, state)
        checkpoint.keep_best_and_last(self._folder, self._keep)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None
    ) -> None:
        """Let what was begun be finished; what it meets counts where nothing else went wrong."""
        self._thread.shutdown()
        if kind is None:
            self.wait()


def _copied(value: Any) -> Any:
    """A copy on the CPU that later steps do not change."""
    match value:
        case Tensor():
            return value.detach().to("cpu", copy=True)
        case Mapping():
            return {key: _copied(item) for key, item in value.items()}
        case list() | tuple():
            return [_copied(item) for item in value]
        case _:
            return value
