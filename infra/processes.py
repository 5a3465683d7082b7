"""Child processes that outlive nobody."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>
_PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def end_with_parent() -> None:
    """When the parent of this process is killed, it is told to stop (Linux only; exec keeps it)."""
    if _PRCTL:
        _PRCTL(_PR_SET_PDEATHSIG, signal.SIGTERM)


def end_group(leader: "subprocess.Popen[bytes]") -> None:
    """Kill a child that leads a process group, and whatever it started there."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()


def note_group(note: Path, leader: int) -> None:
    """Write down which group `leader` leads, for whoever is not its parent."""
    note.write_text(f"{leader} {_birth(leader) or ''}")


def noted_group(note: Path) -> int | None:
    """The number of the group written down, while its leader runs; None where nobody knows."""
    try:
        number, birth = note.read_text().split(maxsplit=1)
        leader = int(number)
    except (OSError, ValueError):
        return None
    return leader if _birth(leader) == birth else None


def identity() -> str:
    """Which process this is, as its own computer can tell it from all others; "" where it cannot.

    See `has_ended`.
    """
    return f"{here} {os.getpid()} {_birth(os.getpid())}" if (here := _here()) else ""


def has_ended(identity: str) -> bool:
    """Whether that was a process of this very computer, and runs no more; False if not known."""
    here, _, process = identity.partition(" ")
    if not here or here != _here():
        return False
    number, _, birth = process.partition(" ")
    return number.isdecimal() and _birth(int(number)) != birth


def _here() -> str:
    """This start of this computer, and the namespace that its processes are numbered in."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return ""


def _birth(pid: int) -> str | None:
    """When a running process began, which tells it from a later one of the same number."""
    if sys.platform == "linux":
        try:
            status = Path(f"/proc/{pid}/stat").read_bytes().decode(errors="replace")
        except OSError:
            return None
        # The fields of proc(5) from the third on; the second, a name, may hold anything.
        fields = status.rpartition(")")[2].split()
        state, birth = fields[0], fields[19]
    else:
        asked = ["ps", "-o", "state=", "-o", "lstart=", "-p", str(pid)]
        said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
        state, _, birth = said.strip().partition(" ")
    return birth.strip() or None if state[:1] not in ("Z", "X") else None
