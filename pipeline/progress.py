"""How far a run is: stages report, listeners show it (a terminal, Prefect, nobody)."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Protocol

# Hears (done, total) in whatever unit the stage counts; total None while it is unknown.
Progress = Callable[[float, float | None], None]


def silent(_done: float, _total: float | None) -> None:
    """Report to nobody."""


class Listener(Protocol):
    """Somebody who wants to know how a run is getting on."""

    def started(self, stage: str) -> None:
        """A stage began."""

    def advanced(self, stage: str, done: float, total: float | None) -> None:
        """A stage got further; called often, so it must be quick."""

    def said(self, stage: str, line: str) -> None:
        """A stage has something to say, such as a line of the training log."""

    def finished(self, stage: str, seconds: float, reused: bool, summary: str) -> None:
        """A stage ended well."""


# Who listens beside Prefect: the command line puts its terminal here before it starts the flow,
# since an object like that cannot be a flow parameter.
listening: ContextVar[tuple[Listener, ...]] = ContextVar("listening", default=())
