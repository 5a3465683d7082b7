"""Whose fault it was that a job failed, and what to do: decided from what it left, and no effects.

The job's own word counts first, then what the kernel and the GPU show, then its last lines. What
is the machine's fault is never said to be the job's, nor the reverse.
"""

import re
import signal

from infra.evidence import Evidence
from infra.failure import Cause

# In words of PyTorch, CUDA, C++ and the C library.
_NO_MEMORY = re.compile(
    r"OutOfMemoryError|(CUDA|HIP|MPS backend) out of memory|CUDA error: out of memory"
    r"|CUDA_ERROR_OUT_OF_MEMORY|CUBLAS_STATUS_ALLOC_FAILED|\bMemoryError\b|std::bad_alloc"
    r"|[Cc]an(no|')t allocate memory|not enough memory"
)
# CUDA errors that a program makes itself, such as an index beyond a table.
_OWN_MISTAKE = re.compile(
    r"device-side assert|illegal (memory access|instruction)|misaligned address|invalid \w+"
)
_DRIVER = re.compile(
    r"CUDA error|CUDA driver (initialization failed|error)|no CUDA-capable device"
    r"|No CUDA GPUs are available|Found no NVIDIA driver|driver version is insufficient"
    r"|NVIDIA driver on your system is too old|Unable to determine the device handle"
    r"|NVIDIA-SMI has failed|NVRM: Xid|GPU is lost|uncorrectable ECC error"
)
_TRACEBACK = "Traceback (most recent call last)"
# Who ends a process in these ways is neither the program nor its user's mistake.
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_OF_A_SHELL = 128  # and the number of the signal: how a shell says that its child was killed
_LAST = 30  # lines


def verdict(code: int, log: str, evidence: Evidence) -> tuple[Cause, str]:
    """Cause and sentence for a job that ended with `code` (negative: a signal) and said nothing.

    `log` is the end of what it printed.
    """
    words = _last_words(log)
    number = -code if code < 0 else code - _OF_A_SHELL
    killed = number == signal.SIGKILL
    if killed and evidence.memory_ran_out:
        return Cause.OUT_OF_MEMORY, (
            "The job was killed because the machine's memory ran out: take a smaller "
            "--set batch_size or fewer workers."
        )
    if line := _line_with(_NO_MEMORY, words):
        return Cause.OUT_OF_MEMORY, (
            f"The memory did not suffice ({line}): take a smaller --set batch_size or image_size."
        )
    line = _line_with(_DRIVER, words)
    if line and not _OWN_MISTAKE.search(line):
        return Cause.DRIVER, gpu_failed(line)
    if evidence.gpu_trouble:
        return Cause.DRIVER, gpu_failed(evidence.gpu_trouble)
    if killed and evidence.memory_ran_out is None:
        return Cause.OUT_OF_MEMORY, (
            "The job was killed from outside, probably because memory ran out, as Linux does then: "
            "take a smaller --set batch_size or fewer workers."
        )
    if number in _FROM_OUTSIDE:
        return Cause.KILLED, (
            f"The job was ended from outside by {_name(number)}, and not for want of memory: start "
            "it again."
        )
    if code < 0:
        return Cause.USER_ERROR, (
            f"The job crashed with {_name(number)}; the end of its log says where: {_shown(words)}"
        )
    return Cause.USER_ERROR, f"The job ended with code {code}: {_shown(words)}"


def gpu_failed(said: str) -> str:
    """The sentence for a GPU or driver that said this."""
    return (
        f"The GPU or its driver failed ({said.rstrip('. ')}): start again, on another machine if "
        "it happens twice."
    )


def _last_words(log: str) -> list[str]:
    """The last lines; of a traceback what was raised, and no source code, which is indented."""
    _, traceback, raised = log.rpartition(_TRACEBACK)
    lines = log.splitlines()[-_LAST:]
    if traceback:
        lines = [line for line in raised.splitlines() if not line.startswith(" ")]
    return [line.strip() for line in lines if line.strip()]


def _line_with(pattern: re.Pattern[str], lines: list[str]) -> str | None:
    return next((line[:300] for line in lines if pattern.search(line)), None)


def _shown(words: list[str]) -> str:
    return words[-1][:500] if words else "it said nothing"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
