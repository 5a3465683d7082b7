"""Preparation on a Dask cluster: archives and shards are Prefect tasks of its workers.

The store carries everything: workers are told what to do, and leave what they made there. So one
that is lost costs no more than what it was just doing.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context, copy_context
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, as_completed
from prefect.settings import PREFECT_API_URL

from infra.failure import Cause, Failure
from model.errors import InputError
from pipeline.parameters import home
from pipeline.spread import Spread

if TYPE_CHECKING:
    from prefect_dask.task_runners import DaskTaskRunner

T = TypeVar("T")
R = TypeVar("R")

_PATIENCE = 20.0  # seconds, with a scheduler that does not answer
# One worker a core, each one thread. To connect to a worker is to run any program as its user, so
# that others on this computer must not: the certificates are made for the run.
_HERE = {
    "threads_per_worker": 1,
    "security": True,
    "dashboard_address": "127.0.0.1:0",
    "preload": __name__,
}


def dask_setup(_worker: object) -> None:
    """Runs in each worker of our own: who presses Ctrl-C means the run, which then ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@task(cache_policy=NO_CACHE)
def _call(work: Callable[[Path], Any]) -> Any:
    """Runs in a worker, whose spool is its own."""
    return work(home() / "spool")


@contextmanager
def preparers(place: str) -> Iterator[Spread | None]:
    """Whoever prepares at `place`: `dask`, the address of a scheduler, or None, this process alone.

    A cluster of our own is started when there is something to spread, and ends with the block.

    Raises:
        InputError: Dask is not installed.
        Failure: the scheduler does not answer, has no worker, or one that cannot do it; later,
            workers are lost again and again.
    """
    if place == "local":
        yield None
        return
    with _runner(place) as runner:
        if "://" in place:
            _must_be_able(runner, place)
        # In the flow's context its tasks take nothing else with them; within another task they
        # would take all that this was given, such as a terminal, which cannot be pickled.
        yield partial(_spread, runner, copy_context())


def _runner(place: str) -> "DaskTaskRunner":
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise InputError(
            f"--prepare-on {place} needs Dask, which is not installed: run `.venv/bin/pip install "
            "-e '.[dask]'` in the folder of voc-train."
        ) from error
    if "://" in place:
        return DaskTaskRunner(address=place, client_kwargs={"timeout": _PATIENCE})
    return DaskTaskRunner(cluster_kwargs=_HERE)


def _must_be_able(runner: "DaskTaskRunner", address: str) -> None:
    try:
        workers = runner.client.scheduler_info()["workers"]
    except OSError as error:
        raise Failure(
            Cause.BAD_INPUT,
            f"No Dask scheduler answers at {address}; start one with `dask scheduler`, or mend the "
            "address.",
        ) from error
    if not workers:
        raise Failure(
            Cause.BAD_INPUT,
            f"The Dask scheduler at {address} has no workers; start some with `dask worker "
            f"{address}`.",
        )
    server = PREFECT_API_URL.value() or ""
    try:
        reached = runner.client.run(_reaches, server)
    except ImportError as error:
        raise Failure(
            Cause.BAD_INPUT,
            f"A Dask worker of {address} lacks what is here ({error}); install the same voc-train "
            "in its Python.",
        ) from error
    if not all(reached.values()):
        worker = next(name for name, here in reached.items() if not here)
        raise Failure(
            Cause.BAD_INPUT,
            f"The Dask worker {worker} does not reach Prefect's server at {server}; start one that "
            "all workers reach (`prefect server start --host 0.0.0.0`, in a network that you "
            "trust), and name it in PREFECT_API_URL.",
        )


def _reaches(server: str) -> bool:
    """Runs in a worker, which tells Prefect's server of its tasks and fails where it cannot."""
    try:
        httpx.get(f"{server}/health", timeout=_PATIENCE)
    except httpx.TransportError:
        return False
    return True


def _spread(
    runner: "DaskTaskRunner",
    context: Context,
    name: str,
    work: Callable[[T, Path], R],
    items: Sequence[T],
    /,
) -> Iterator[tuple[T, R]]:
    """A task for each item; see `Spread`. What is one alone is done here."""
    if len(items) < 2:
        for item in items:
            yield item, work(item, home() / "spool")
        return
    from distributed import CancelledError, KilledWorker

    named = _call.with_options(name=name)
    # Within `partial` Prefect does not look for futures, of which a shard has none in its pairs.
    futures: list[PrefectFuture[Any]] = [
        context.run(runner.submit, named, {"work": partial(work, item)}) for item in items
    ]
    item_of = {future.task_run_id: item for future, item in zip(futures, items, strict=True)}
    try:
        for future in as_completed(futures):
            yield item_of[future.task_run_id], future.result()
    except KilledWorker as error:
        raise Failure(
            Cause.AGENT_LOST,
            f"Dask's workers are lost with one and the same {name} again and again; give them more "
            "memory, or look into their logs. What is built stays built.",
        ) from error
    except CancelledError as error:
        raise Failure(
            Cause.AGENT_LOST, "The Dask scheduler is lost. What is built stays built."
        ) from error
