"""What a machine shows of why a job ended: the kernel's memory figures and words, the GPU's state.

Looked at before the job and after it, since only what changed meanwhile says anything of the job.
Whatever cannot be read here counts as unknown.
"""

import contextlib
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

_ASK_GPU = ("nvidia-smi", "--query-gpu=index,name,driver_version", "--format=csv,noheader")
_PATIENCE = 20.0  # seconds for nvidia-smi, which hangs where the driver does
_NOT_THERE = 127  # a shell's word for a program that is not installed
_KILLED = re.compile(r"[Oo]ut of memory: Killed process|oom-kill:")
_XID = re.compile(r"NVRM: Xid \([^)]*\): (\d+),.*")
# Xids that a program causes by its own mistakes (NVIDIA, "XID Errors"): they blame no machine.
_XIDS_OF_PROGRAMS = {13, 31, 43, 45}
_PIECE = 1 << 13  # bytes; a record of /dev/kmsg is never longer


@dataclass(frozen=True)
class Evidence:
    """What was seen since before the job."""

    memory_ran_out: bool | None = None  # the kernel killed somebody for it; None: nobody can tell
    gpu_trouble: str | None = None  # what became wrong with the GPU or its driver, in their words


class Witness:
    """Begins to look when it is made, and says afterwards what it saw."""

    def __init__(
        self,
        *,
        cgroups: Path = Path("/sys/fs/cgroup"),
        proc: Path = Path("/proc"),
        kernel_log: Path = Path("/dev/kmsg"),
    ) -> None:
        self._cgroups = cgroups
        self._proc = proc
        self.gpu_problem = gpu_problem()  # there before the job was
        self._kills = self._count_kills()
        self._kernel: int | None = None
        with contextlib.suppress(OSError):  # others than root may not, and a container has none
            self._kernel = os.open(kernel_log, os.O_RDONLY | os.O_NONBLOCK)
            os.lseek(self._kernel, 0, os.SEEK_END)

    def evidence(self) -> Evidence:
        """What happened meanwhile; to be asked once."""
        said = self._kernel_lines()
        kills = self._count_kills()
        ran_out: bool | None = None
        if kills is not None and self._kills is not None:
            ran_out = kills > self._kills
        elif any(_KILLED.search(line) for line in said):
            ran_out = True
        xids = [found for line in said if (found := _XID.search(line))]
        hardware = [one[0] for one in xids if int(one[1]) not in _XIDS_OF_PROGRAMS]
        if hardware:
            return Evidence(ran_out, hardware[0])
        # One that never worked here has nothing to do with this job.
        return Evidence(ran_out, None if self.gpu_problem else gpu_problem())

    def _count_kills(self) -> int | None:
        """Processes that the kernel killed for want of memory: in our cgroup, else at all."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            (own,) = re.findall(r"^0::/(.*)$", (self._proc / "self/cgroup").read_text(), re.M)
            return _figure(self._cgroups / own / "memory.events", "oom_kill")
        with contextlib.suppress(OSError, ValueError, IndexError):
            return _figure(self._proc / "vmstat", "oom_kill")
        return None

    def _kernel_lines(self) -> list[str]:
        """What the kernel has said since this began."""
        lines: list[str] = []
        if self._kernel is None:
            return lines
        with contextlib.suppress(OSError):  # nothing more, or nothing that may be read
            while True:
                try:
                    record = os.read(self._kernel, _PIECE)
                except BrokenPipeError:  # it said so much that the oldest is gone
                    continue
                if not record:
                    break
                lines += record.decode(errors="replace").splitlines()
        os.close(self._kernel)
        self._kernel = None
        return lines


def gpu_problem() -> str | None:
    """Why the GPU's driver does not answer; None where it does, or where there is none."""
    try:
        asked = subprocess.Popen(
            _ASK_GPU,
            env={"PATH": os.environ.get("PATH", os.defpath)},  # and none of the agent's keys
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except OSError:
        return None
    try:
        said = asked.communicate(timeout=_PATIENCE)[0].strip().splitlines()
    except subprocess.TimeoutExpired:
        asked.kill()  # and it is not waited for: what hangs in the driver cannot be killed
        return f"nvidia-smi did not answer within {_PATIENCE:.0f} seconds"
    if asked.returncode in (0, _NOT_THERE):
        return None
    return said[0] if said else f"nvidia-smi ended with code {asked.returncode}"


def _figure(file: Path, name: str) -> int:
    found = re.findall(rf"^{name} (\d+)$", file.read_text(), re.MULTILINE)
    return int(found[0])
