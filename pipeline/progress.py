"""How far a run is: stages report, listeners show it (a terminal, Prefect, nobody)."""

from contextvars import ContextVar
from typing import Protocol


class Progress(Protocol):
    """Hears how far a stage is."""

    def __call__(self, done: float, total: float | None, note: str = "", /) -> None:
        """In whatever unit the stage counts, total None while unknown; `note` says it in words."""


def silent(_done: float, _total: float | None, _note: str = "") -> None:
    """Tell nobody."""


class Listener(Protocol):
    """Somebody who wants to know how a run is getting on."""

    def began(self, run_id: str) -> None:
        """A run began; what follows is about its stages."""

    def started(self, stage: str) -> None:
        """A stage began."""

    def advanced(self, stage: str, done: float, total: float | None, note: str) -> None:
        """A stage got further; called often, so it must be quick."""

    def said(self, stage: str, line: str) -> None:
        """A stage has something to say, such as a line of the training log."""

    def finished(self, stage: str, seconds: float, reused: bool, summary: str) -> None:
        """A stage ended well."""

    def decided(self, run_id: str, said: str) -> None:
        """A run's checkpoint was promoted or refused; its stage says so, too."""

    def ended(self, run_id: str, failure: str | None) -> None:
        """A run ended; `failure` is the cause and the sentence of one that failed."""


# Who listens beside Prefect: the command line puts its terminal here before it starts the flow,
# since an object like that cannot be a flow parameter.
listening: ContextVar[tuple[Listener, ...]] = ContextVar("listening", default=())


def who_listens() -> tuple[Listener, ...]:
    """Those of `listening`, which a flow cannot name: it is pickled with all that it names."""
    return listening.get()
