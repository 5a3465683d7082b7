"""Child processes that outlive nobody."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys

_PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>
_PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def end_with_parent() -> None:
    """In a child before exec: when its parent is killed, it is told to stop (Linux only)."""
    if _PRCTL:
        _PRCTL(_PR_SET_PDEATHSIG, signal.SIGTERM)


def end_group(leader: "subprocess.Popen[bytes]") -> None:
    """Kill a child that leads a process group, and whatever it started there."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()
