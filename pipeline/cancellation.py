"""A flow run that is cancelled in Prefect ends, even where its worker does not hear of it.

A worker carries out no cancellation any more once its server was away for half a minute, and a run
of the command line has no worker. What is rented must not go on then.
"""

import contextvars
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from uuid import UUID

from prefect import runtime
from prefect.client.orchestration import get_client

from infra.protocol import now

_EVERY = 20.0  # seconds between two looks
_UNHEARD = timedelta(seconds=60)  # a worker that hears of it has killed the process by then


@contextmanager
def heeded() -> Iterator[None]:
    """In a flow: tell this process to stop when a cancellation is not carried out for a minute."""
    ended = threading.Event()
    # The thread needs the settings of here: they say where the server is.
    watch = contextvars.copy_context().run
    flow_run = UUID(runtime.flow_run.id)
    threading.Thread(target=watch, args=(_watch, flow_run, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _watch(flow_run: UUID, ended: threading.Event) -> None:
    with get_client(sync_client=True) as client:
        while not ended.wait(_EVERY):
            with suppress(Exception):  # a server that is away cancels nothing
                state = client.read_flow_run(flow_run).state
                unheard = state and state.is_cancelling() and now() - state.timestamp > _UNHEARD
                if unheard and not ended.is_set():
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
