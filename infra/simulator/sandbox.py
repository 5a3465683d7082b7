"""The walls of a simulated machine, and the init process inside; needs no root, Linux only.

    python -I -S sandbox.py

Standard input: one line of JSON, a `Walls`, then one line {"argv": …, "env": …} for every program
to start inside. Standard output: one line with the process id of the init, once it is up. When the
input ends, or whoever started this is killed, everything inside is killed by the kernel.

Two user namespaces, one in the other. The outer builds a root of its own: the system's programs
read-only, everything else from the machine's folder. Mounts that come from an outer user namespace
are locked in the inner one, so that not even the machine's root can make them writable or look
below them. Standard library only: this runs where nothing else can be seen.
"""

import ctypes
import json
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

# From <sys/mount.h>, <sched.h>, <linux/mount.h> and <linux/prctl.h>.
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_NEW_USER, _NEW_MOUNT, _NEW_PID = 0x10000000, 0x00020000, 0x20000000
_NEW_NAME, _NEW_IPC = 0x04000000, 0x08000000
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _READ_ONLY = 442, -100, 0x8000, 1
_PR_SET_PDEATHSIG = 1

OWN = ("etc", "home", "opt", "root", "srv", "tmp", "var")  # folders that a machine has to itself
_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
# Of the system's settings: what its programs and certificates need, and nothing private.
_SETTINGS = ("alternatives", "ld.so.conf.d", "pki/ca-trust", "pki/tls/certs", "ssl/certs")
_KERNEL = ("bus", "fs", "irq", "sys", "sysrq-trigger")
_DEVICES = ("full", "null", "random", "tty", "urandom", "zero")

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Walls:
    """What can be seen inside: the machine's folder, and these at their own paths."""

    folder: str
    hostname: str
    readable: list[str]
    writable: list[str]


def main() -> None:
    """Build the walls, start the init behind them, and wait for its end."""
    parent = os.getppid()
    _die_with_parent(parent)
    walls = Walls(**json.loads(_line()))
    _enter(_NEW_USER | _NEW_MOUNT | _NEW_PID)
    up, tell = os.pipe()
    init = os.fork()
    if init == 0:
        # The parent's number cannot be seen from here, but a dead parent shows in the closed pipe.
        _die_with_parent(0)
        _build(walls)
        _enter(_NEW_USER | _NEW_MOUNT | _NEW_NAME | _NEW_IPC)
        socket.sethostname(walls.hostname)
        os.write(tell, b"up")
        os.close(tell)
        os.close(up)
        _init()
    os.close(tell)
    if os.read(up, 2) == b"up":
        os.write(1, b"%d\n" % init)
        os.close(1)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(init, 0)[1]) and 1)


def _die_with_parent(parent: int) -> None:
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    if os.getppid() != parent:  # it was quicker
        sys.exit(1)


def _enter(namespaces: int) -> None:
    """Go into new namespaces; whoever this is, is root in them."""
    user, group = os.geteuid(), os.getegid()
    _checked(_libc.unshare(namespaces), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def _build(walls: Walls) -> None:
    """Make what the machine sees, and see nothing else from here on."""
    folder = Path(walls.folder)
    new = folder / "rootfs"
    new.mkdir(exist_ok=True)
    _mount("none", Path("/"), "", _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", new, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755")
    _bind(Path("/usr"), new / "usr", writable=False)
    for name in _MERGED:
        there = Path("/", name)
        if there.is_symlink():
            (new / name).symlink_to(there.readlink())
        elif there.exists():
            _bind(there, new / name, writable=False)
    for name in OWN:
        _bind(folder / name, new / name)
    for name in _SETTINGS:
        if Path("/etc", name).is_dir():
            _bind(Path("/etc", name).resolve(), new / "etc" / name, writable=False)
    _bind(folder / "standins", new / "usr/local/sbin", writable=False)
    # PyTorch asks here which instructions the processor has.
    if Path("/sys/devices/system").is_dir():
        _bind(Path("/sys/devices/system"), new / "sys/devices/system", writable=False)
    _devices(folder, new / "dev")
    for name in ("mnt", "media", "run", "proc"):
        (new / name).mkdir()
    _mount("tmpfs", new / "run", "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755")
    _mount("proc", new / "proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    for name in _KERNEL:  # where this is run by root, root inside could set them
        if Path("/proc", name).exists():
            _bind(new / "proc" / name, new / "proc" / name, writable=False)
    for path in walls.readable:
        _bind(Path(path), new / path.lstrip("/"), writable=False)
    for path in walls.writable:
        _bind(Path(path), new / path.lstrip("/"))
    os.chdir(new)
    # The old root lands on top of the new one and is taken away, see pivot_root(2).
    _checked(_libc.pivot_root(b".", b"."), "pivot_root")
    _checked(_libc.umount2(b".", _MNT_DETACH), "umount")
    os.chdir("/root")


def _devices(folder: Path, dev: Path) -> None:
    dev.mkdir()
    _mount("tmpfs", dev, "tmpfs", _MS_NOSUID, "mode=755")
    for name in _DEVICES:  # read-only: their rights are the system's, their content is nobody's
        _bind(Path("/dev", name), dev / name, writable=False)
    for name in ("pts", "shm"):
        (dev / name).mkdir()
    _mount("devpts", dev / "pts", "devpts", _MS_NOSUID, "newinstance,ptmxmode=0666,mode=620")
    _mount("tmpfs", dev / "shm", "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=1777")
    _bind(folder / "disks", dev / "disk/by-id")
    links = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd"}
    links |= {name: f"/proc/self/fd/{n}" for n, name in enumerate(("stdin", "stdout", "stderr"))}
    for name, target in links.items():
        (dev / name).symlink_to(target)


def _bind(source: Path, target: Path, *, writable: bool = True) -> None:
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    _mount(str(source), target, "", _MS_BIND | _MS_REC)
    if not writable:
        attributes = (ctypes.c_uint64 * 4)(_READ_ONLY, 0, 0, 0)  # struct mount_attr
        _checked(
            _libc.syscall(
                _MOUNT_SETATTR,
                _AT_FDCWD,
                os.fsencode(target),
                _AT_RECURSIVE,
                ctypes.byref(attributes),
                ctypes.sizeof(attributes),
            ),
            f"make {source} read-only",
        )


def _mount(source: str, target: Path, kind: str, flags: int, options: str = "") -> None:
    _checked(
        _libc.mount(
            os.fsencode(source),
            os.fsencode(target),
            kind.encode() or None,
            ctypes.c_ulong(flags),
            options.encode() or None,
        ),
        f"mount {source} on {target}",
    )


def _checked(result: int, what: str) -> None:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _init() -> None:
    """Start what is asked for and bury the dead, until the input ends."""

    def bury(_signal: int, _frame: FrameType | None) -> None:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    signal.signal(signal.SIGCHLD, bury)
    while line := _line():
        program = json.loads(line)
        try:
            os.posix_spawn(
                program["argv"][0],
                program["argv"],
                program["env"],
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, 2, 1),  # standard error is the console
                ],
                setsid=True,
                setsigdef=[signal.SIGINT, signal.SIGPIPE],
            )
        except OSError as error:
            os.write(2, f"{program['argv'][0]}: {error.strerror}\n".encode())
    os._exit(0)


def _line() -> bytes:
    """The next line of the input, not a byte more: two processes read it, one after the other."""
    line = b""
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return line


if __name__ == "__main__":
    main()
