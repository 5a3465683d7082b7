"""What can go wrong at a boundary, and where it fits."""

from collections.abc import Iterator
from enum import StrEnum

from chaos.wire import Boundary


class Fault(StrEnum):
    """One way for one act to go wrong."""

    # of the controller
    KILLED_BEFORE = "killed-before"  # SIGKILL
    KILLED_AFTER = "killed-after"
    TERMINATED = "terminated"  # SIGTERM, as a service manager sends it
    RAISES = "raises"
    WAKES_BESIDE = "wakes-beside"  # stopped for so long that another one goes on with its run
    WAKES_AFTER = "wakes-after"  # the same, and that one has ended by then
    # of a request
    LOST = "lost"  # done, and the answer lost
    TIMES_OUT = "times-out"  # not done, and never answered
    ANSWERS_429 = "answers-429"
    ANSWERS_500 = "answers-500"
    ANSWERS_502 = "answers-502"
    # of the store
    AWAY = "away"  # for a while, for everybody
    REFUSES = "refuses"
    TAIL = "tail"  # the object just written loses its end
    # of the machine
    VANISHES = "vanishes"
    FREEZES = "freezes"
    REBOOTS = "reboots"
    FILLS = "fills"  # its disk
    AGENT_KILLED = "agent-killed"
    JOB_KILLED = "job-killed"
    CLOCK = "clock"  # an hour off, from the start


_PROCESS = (Fault.KILLED_BEFORE, Fault.KILLED_AFTER, Fault.TERMINATED)
_REPLACED = (Fault.WAKES_BESIDE, Fault.WAKES_AFTER)
_REQUEST = (Fault.LOST, Fault.TIMES_OUT, Fault.ANSWERS_429, Fault.ANSWERS_500, Fault.ANSWERS_502)
_STORE = (Fault.LOST, Fault.TIMES_OUT, Fault.ANSWERS_500, Fault.AWAY, Fault.REFUSES)
_MACHINE = (Fault.VANISHES, Fault.FREEZES, Fault.REBOOTS)
_WORK = (*_MACHINE, Fault.FILLS, Fault.AGENT_KILLED, Fault.JOB_KILLED)


def fitting(boundary: Boundary) -> Iterator[Fault]:
    """Everything that can go wrong there."""
    match boundary.who, boundary.place:
        case "agent", _:
            yield from (*_WORK, *_STORE, Fault.KILLED_BEFORE)
        case _, "provider":
            yield from (*_PROCESS, *_REQUEST)
        case _, "store":
            yield from (*_PROCESS, *_STORE)
        case _, "ssh":
            yield from (*_PROCESS, Fault.RAISES, *_MACHINE)
        case _:
            yield from (*_PROCESS, Fault.RAISES, *_REPLACED)
    if boundary.place == "provider" and not boundary.what.startswith("GET "):
        yield from _REPLACED
    if boundary.place == "store" and boundary.what.startswith("PUT "):
        yield Fault.TAIL
