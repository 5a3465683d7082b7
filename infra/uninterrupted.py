"""Work that has to be finished, whoever presses Ctrl-C meanwhile."""

import contextlib
import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")

_LOOK = 0.05  # seconds


def uninterrupted(work: Callable[[], T]) -> T:
    """Do `work` in a thread of its own, and wait however often the wait is interrupted.

    Returns or raises what `work` did; the interrupt goes on only once it is done, and never hides
    a failure of `work`.
    """
    result: list[T] = []
    raised: list[BaseException] = []
    over = threading.Event()

    def run() -> None:
        try:
            result.append(work())
        except BaseException as error:
            raised.append(error)
        finally:
            over.set()

    # With the context of whoever waits: listeners find their logger in it.
    worker = threading.Thread(target=copy_context().run, args=(run,), name="uninterrupted")
    interrupt: BaseException | None = None
    while not over.is_set():
        try:
            if worker.ident is None:
                worker.start()
            # Short waits: an interrupt inside a long one may find the lock in any state.
            over.wait(_LOOK)
        except BaseException as error:
            interrupt = error
    with contextlib.suppress(BaseException):
        worker.join()
    if raised:
        raise raised[0] from interrupt
    if interrupt:
        raise interrupt
    return result[0]
