"""Several cases at the same time, each in a world of its own."""

import multiprocessing
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing.util import Finalize
from pathlib import Path

from chaos.cases import Case, Verdict, tried
from chaos.world import World

_world: World  # of this process


def all_tried(cases: list[Case], workers: int) -> Iterator[Verdict]:
    """All of them, in any order, each worker in a world of its own."""
    context = multiprocessing.get_context("spawn")
    most = max(1, min(workers, len(cases)))
    with ProcessPoolExecutor(most, context, initializer=_open_world) as pool:
        for done in as_completed([pool.submit(_try, case) for case in cases]):
            yield done.result()


def _open_world() -> None:
    global _world
    folder = tempfile.TemporaryDirectory()
    _world = World(Path(folder.name)).__enter__()
    Finalize(None, folder.cleanup, exitpriority=1)  # the last thing that the process does
    Finalize(None, _world.__exit__, (None, None, None), exitpriority=2)


def _try(case: Case) -> Verdict:
    try:
        return tried(_world, case)
    except Exception as error:  # of the harness: it must not take the other cases with it
        return Verdict(case, 0.0, (), (f"it could not be tried: {error!r}",))
