"""Work that has to be finished, whoever presses Ctrl-C meanwhile."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def uninterrupted(work: Callable[[], T], *, meanwhile: Callable[[], None] | None = None) -> T:
    """Do `work`; a signal that would interrupt it takes effect only when it is done.

    `meanwhile` is called at each such signal, between any two steps of the work. Returns or raises
    what `work` did: a failure of it is not hidden by an interrupt.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()  # signals are the main thread's
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        if meanwhile:
            meanwhile()

    before = {caught: signal.signal(caught, note) for caught in _SIGNALS}
    try:
        result = work()
    finally:
        for caught, handler in before.items():
            signal.signal(caught, signal.SIG_DFL if handler is None else handler)
    for number in dict.fromkeys(came):
        signal.raise_signal(number)
    return result
