"""A rehearsal: the whole rental, through the same code, against a Linode on this computer."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from infra.clock import Clock
from infra.failure import Cause, Failure
from infra.linode import Linode
from infra.reaper import reap
from infra.reaper_report import FRESH
from infra.simulator import Simulator
from infra.simulator.machine import must_be_possible
from infra.stores import Store
from pipeline.monthly_budget import VARIABLE
from pipeline.parameters import home


def rehearsal_store() -> str:
    """Where rehearsals keep their runs, apart from real ones."""
    return (home() / "rehearsal" / "store").as_uri()


def sample() -> str:
    """Path of a small generated archive, made once."""
    from pipeline.sample_archive import write_sample_archive

    path = home() / "rehearsal" / "shapes.tar"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_sample_archive(path)
    return str(path)


@contextmanager
def rehearsal(store: Store, speed: float) -> Iterator[Simulator]:
    """A simulated Linode for this process; at the end it is seen that nothing is left there.

    Raises Failure(SETUP_FAILED) where no sandbox can be had, and Failure(LEAKED) for what the run
    left behind.
    """
    must_be_possible()
    folder = store.local_path("")
    assert folder is not None
    folder.mkdir(parents=True, exist_ok=True)
    clock = Clock.fast(speed)
    with (
        TemporaryDirectory(prefix="voc-train-rehearsal-") as temporary,
        Simulator(Path(temporary), clock=clock, shares=(folder,)) as simulator,
    ):
        os.environ.update(simulator.environment())
        os.environ.pop(VARIABLE, None)  # what is spent here is nobody's money
        with watched(store, clock):
            yield simulator
        left = [thing for thing in simulator.left() if thing.kind != "stackscript"]
        if left:
            raise Failure(Cause.LEAKED, f"The rehearsal left {left} behind.")


@contextmanager
def watched(store: Store, clock: Clock) -> Iterator[None]:
    """One that looks all the time, as one on another computer would."""
    ended = threading.Event()

    def look() -> None:
        reap(Linode.from_environment(clock), store, clock, delete=True, say=lambda _: None)

    def watch() -> None:
        while not ended.wait(FRESH.total_seconds() / 3 / clock.speed):
            with suppress(Failure):  # it looks again
                look()

    look()  # nobody rents before
    thread = threading.Thread(target=watch, name="reaper", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
