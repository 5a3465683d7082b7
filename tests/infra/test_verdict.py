"""Whose fault it was: causes from last words, signals, memory figures and the GPU's state."""

import pytest

from infra.evidence import Evidence
from infra.failure import Cause, Failure
from infra.verdict import verdict
from last_words import WORDS

_CALM = Evidence(memory_ran_out=False)
_TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 3, in f\n    {}\n{}\n'


@pytest.mark.parametrize("words", WORDS)
def test_an_exception_tells_its_own_cause(words: str) -> None:
    log = f"epoch 1\n{_TRACEBACK.format('net(x)', f'RuntimeError: {words}')}"
    cause, message = verdict(1, log, _CALM)
    assert cause == (WORDS[words] or Cause.USER_ERROR)
    if cause is not Cause.USER_ERROR:
        assert words.splitlines()[0] in message


@pytest.mark.parametrize(
    "line",
    [
        "torch.OutOfMemoryError: of any kind",
        "MemoryError",
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "OSError: [Errno 12] Cannot allocate memory",
    ],
)
def test_memory_that_a_program_asked_for_in_vain(line: str) -> None:
    assert verdict(1, line, _CALM)[0] is Cause.OUT_OF_MEMORY


@pytest.mark.parametrize(
    ("code", "ran_out", "cause", "said"),
    [
        (-9, True, Cause.OUT_OF_MEMORY, "because the machine's memory ran out"),
        (137, True, Cause.OUT_OF_MEMORY, "because the machine's memory ran out"),
        (-9, None, Cause.OUT_OF_MEMORY, "probably because memory ran out"),
        (-9, False, Cause.KILLED, "SIGKILL, and not for want of memory"),
        (137, False, Cause.KILLED, "SIGKILL, and not for want of memory"),
        (-15, False, Cause.KILLED, "SIGTERM"),
        (143, False, Cause.KILLED, "SIGTERM"),
        (-1, None, Cause.KILLED, "SIGHUP"),
        (-11, False, Cause.USER_ERROR, "SIGSEGV"),
        (-11, True, Cause.USER_ERROR, "SIGSEGV"),
        (-6, False, Cause.USER_ERROR, "SIGABRT"),
        (1, True, Cause.USER_ERROR, "code 1: that was all"),
        (1, None, Cause.USER_ERROR, "code 1: that was all"),
    ],
)
def test_a_signal_and_the_memory_figures(
    code: int, ran_out: bool | None, cause: Cause, said: str
) -> None:
    verdict_, message = verdict(code, "that was all\n", Evidence(memory_ran_out=ran_out))
    assert verdict_ is cause
    assert said in message


def test_a_gpu_that_was_lost_meanwhile_is_not_the_programs_fault() -> None:
    log = _TRACEBACK.format("x.cpu()", "RuntimeError: something odd")
    xid = "NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus."
    for code in (1, -6, -9):
        cause, message = verdict(code, log, Evidence(memory_ran_out=False, gpu_trouble=xid))
        assert cause is Cause.DRIVER
        assert "fallen off the bus" in message


def test_memory_that_ran_out_is_not_the_gpus_fault() -> None:
    """What was killed could not say good-bye to its GPU."""
    both = Evidence(memory_ran_out=True, gpu_trouble="Xid")
    assert verdict(-9, "", both)[0] is Cause.OUT_OF_MEMORY


def test_what_was_overcome_before_is_not_the_cause() -> None:
    log = "CUDA out of memory, so half the batch\nCUDA error: retried\n" + _TRACEBACK.format(
        'raise KeyError("CUDA error")', "KeyError: 'colour'"
    )
    assert verdict(1, log, _CALM) == (
        Cause.USER_ERROR,
        "The job ended with code 1: KeyError: 'colour'",
    )


def test_who_says_nothing_is_said_to() -> None:
    assert verdict(3, "", _CALM) == (Cause.USER_ERROR, "The job ended with code 3: it said nothing")


@pytest.mark.parametrize("cause", Cause)
def test_another_machine_is_tried_for_what_the_machine_did(cause: Cause) -> None:
    of_the_machine = {
        "AGENT_LOST",
        "STALLED",
        "BOOT_TIMEOUT",
        "SETUP_FAILED",
        "DRIVER",
        "KILLED",
    }
    assert Failure(cause, "").of_the_machine == (cause in of_the_machine)
