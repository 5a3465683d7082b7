"""How much memory is free."""

import re
from contextlib import suppress
from pathlib import Path

_ROOT = Path("/")


def free_memory(root: Path = _ROOT) -> int:
    """Bytes that this process could take without pushing others out; 0 where nobody says.

    A container, or any control group around it, may have less left than the machine; what it keeps
    of files is given up when it is wanted (https://docs.kernel.org/admin-guide/cgroup-v2.html).
    `root` is where /proc and /sys are.
    """
    try:
        free = 1024 * _number("MemAvailable:", root / "proc/meminfo")
        own = re.findall(r"^0::/(.*)$", (root / "proc/self/cgroup").read_text(), re.M)
    except (OSError, IndexError):
        return 0
    groups = [root / "sys/fs/cgroup" / name for name in own]
    for group in (around for inner in groups for around in (inner, *inner.parents)):
        with suppress(OSError, ValueError, IndexError):  # no limit there
            limit, used = (int((group / f"memory.{of}").read_text()) for of in ("max", "current"))
            files = _number("inactive_file", group / "memory.stat")
            free = min(free, max(0, limit - used + files))
    return free


def _number(name: str, file: Path) -> int:
    """What stands behind `name` at the beginning of a line."""
    return int(re.findall(rf"^{name}\s+(\d+)", file.read_text(), re.M)[0])
