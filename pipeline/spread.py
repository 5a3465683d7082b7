"""How the parts of a stage are spread over whoever works on them."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Spread(Protocol):
    """Has somebody else work on every item, several at once."""

    def __call__(
        self, name: str, work: Callable[[T, Path], R], items: Sequence[T], /
    ) -> Iterator[tuple[T, R]]:
        """Yield each item with what `work(item, spool)` returned, whichever is done first.

        `name` is what the work on an item is called. `work` is pickled, and `spool` is the folder
        of whoever does it, for downloads. What it raises is raised here, and the rest given up.
        """
