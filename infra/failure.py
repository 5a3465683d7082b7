"""Why a run failed: one enumeration, one sentence, one exit code."""

from enum import StrEnum


class Cause(StrEnum):
    """Every failure has exactly one of these."""

    BAD_INPUT = "BAD_INPUT"
    STORE = "STORE"
    USER_ERROR = "USER_ERROR"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    DRIVER = "DRIVER"  # the GPU or its driver does not work
    KILLED = "KILLED"  # somebody ended the job, and it was not for want of memory
    AGENT_LOST = "AGENT_LOST"
    DEADLINE = "DEADLINE"
    NO_CAPACITY = "NO_CAPACITY"  # the provider has no such machine free
    PROVIDER = "PROVIDER"  # it does not answer, or not in a way that says anything
    BUDGET = "BUDGET"  # it would cost more than was allowed
    BOOT_TIMEOUT = "BOOT_TIMEOUT"
    SETUP_FAILED = "SETUP_FAILED"
    HOST_KEY = "HOST_KEY"  # a machine shows another key than the one it was given
    STALLED = "STALLED"  # the machine is there, but nothing is heard from it
    LEAKED = "LEAKED"  # something that costs money could not be shown gone
    CLAIMED = "CLAIMED"  # another controller drives the run
    CANCELLED = "CANCELLED"
    BELOW_GATE = "BELOW_GATE"
    NOT_REPRODUCED = "NOT_REPRODUCED"  # trained again, it has other weights
    CORRUPT = "CORRUPT"
    INTERNAL = "INTERNAL"  # our own mistake


# A machine that is lost or no good says nothing of the next one.
_OF_THE_MACHINE = {
    Cause.AGENT_LOST,
    Cause.STALLED,
    Cause.BOOT_TIMEOUT,
    Cause.SETUP_FAILED,
    Cause.DRIVER,
    Cause.KILLED,
}
# What the caller can cure by changing the command line exits 2, like any other wrong input.
_WRONG_INPUT = {Cause.BAD_INPUT, Cause.STORE}


class Failure(Exception):
    """A failure with its cause; the message says in one or two sentences what to do.

    `permanent` where trying again will not help until a person has done something.
    """

    def __init__(self, cause: Cause, message: str, *, permanent: bool = False) -> None:
        super().__init__(cause, message)
        self.cause = cause
        self.permanent = permanent

    def __str__(self) -> str:
        return str(self.args[1])

    @property
    def of_the_machine(self) -> bool:
        """Whether another machine may do what this one did not."""
        return self.cause in _OF_THE_MACHINE

    @property
    def exit_code(self) -> int:
        """2 for wrong input, 1 for everything else."""
        return 2 if self.cause in _WRONG_INPUT else 1
