"""A machine at which an earlier controller started a job, seen by one that cannot log in there."""

from collections.abc import Callable

from infra.machines import MachineState
from infra.protocol import Result
from infra.stores import Store


class Attached:
    """It can be watched, through the store and by asking `state`; to end it, it is deleted.

    Without `state` it is no more: what its agent left in the store is all there is.
    """

    def __init__(self, where: str, state: Callable[[], MachineState] = lambda: "gone") -> None:
        self.where = where
        self._ask = state

    def start(self, store: Store, run_id: str) -> None:
        """It was started by somebody else."""

    def state(self) -> MachineState:
        """How whoever rented it out sees it."""
        return self._ask()

    def stop(self, *, hurry: bool = False) -> None:
        """Nobody here can tell it; whoever rented it has to delete it."""

    def clean(self) -> None:
        """It will be deleted."""

    def unsent_result(self) -> Result | None:
        """Nobody here can look."""
        return None

    def last_words(self) -> str:
        """Nobody here can look."""
        return "an earlier controller had the key to log in"
