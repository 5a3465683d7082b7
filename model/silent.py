"""What every rank but the first has for a journal and a saver: it says and writes nothing."""

from collections.abc import Mapping
from typing import Any

from model import checkpoint
from model.images import Image
from model.journal import Journal
from model.saver import Saver


class NoJournal(Journal):
    """The first keeps the journal."""

    def __init__(self) -> None:
        self.finished = False

    def write(self, kind: str, step: int, **values: Any) -> None:
        """The first says it."""

    def progress(self, *, always: bool = False, **values: Any) -> None:
        """The first says it."""

    def save_samples(self, pictures: dict[str, tuple[Image, Image, Image]], step: int) -> None:
        """The first saves them."""

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""


class NoSaver(Saver):
    """The first writes the checkpoints: all have the same weights."""

    def __init__(self) -> None:
        """No thread, no folder."""
        self.newest = None

    def save(self, description: checkpoint.Description, state: Mapping[str, Any]) -> None:
        """The first does."""

    def look(self) -> None:
        """Nothing is being written."""

    def wait(self) -> None:
        """Nothing is being written."""

    def __exit__(self, *_: object) -> None:
        """Nothing is being written."""
