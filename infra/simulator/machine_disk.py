"""What stands on the disk of a machine that was never booted: an image's folders and settings."""

import json
import shlex
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from infra.simulator.sandbox import OWN

HOST_KEY = "etc/ssh/ssh_host_ed25519_key"
_PROGRAMS = Path(__file__).parent / "standins" / "programs.py"
# What stands in for the programs that would change a system, need a network or a GPU.
_STANDINS = (
    "add-apt-repository",
    "apt",
    "apt-get",
    "blkid",
    "curl",
    "dpkg",
    "mkfs.ext4",
    "modprobe",
    "mount",
    "nvidia-smi",
    "poweroff",
    "python3",
    "reboot",
    "shutdown",
    "systemctl",
    "ubuntu-drivers",
    "umount",
    "wget",
)
# Names that come from the image; the system's own list of users is nobody's business in there.
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/os-release": 'ID=ubuntu\nVERSION_ID="24.04"\nVERSION_CODENAME=noble\nNAME="Ubuntu"\n',
    "etc/fstab": "",
    "etc/resolv.conf": "",
}
_COPIED = ("ld.so.cache", "ld.so.conf", "protocols", "services", "ssl/openssl.cnf")


class MachineFault(StrEnum):
    """What can be wrong with a machine from the start."""

    APT_BUSY = "apt-busy"  # the first install finds the package database locked
    APT_FAILS = "apt-fails"  # no install after the first one succeeds
    DRIVER = "driver"  # it is installed, and never comes up
    PIP = "pip"  # no package can be downloaded


def lay_out(folder: Path, *, gpus: int, faults: Collection[MachineFault]) -> None:
    """Make a machine's folders as its image has them, with a host key of the image's own."""
    for name in (*OWN, "disks", "standins"):
        (folder / name).mkdir(parents=True)
    for name in ("var/lib/simulated", "var/log", "var/tmp", "etc/ssh", "etc/ssl", "root/.ssh"):
        (folder / name).mkdir(parents=True)
    for name in ("etc/modules-load.d", "etc/systemd/system"):
        (folder / name).mkdir(parents=True)
    for name in ("tmp", "var/tmp"):
        (folder / name).chmod(0o1777)
    for name in ("root", "root/.ssh"):
        (folder / name).chmod(0o700)
    for name, text in _FILES.items():
        (folder / name).write_text(text)
    for name in _COPIED:
        if Path("/etc", name).is_file():
            shutil.copyfile(Path("/etc", name), folder / "etc" / name)
    described = {"gpus": gpus, "faults": sorted(faults), "packages": package_folders()}
    (folder / "etc/simulated.json").write_text(json.dumps(described))
    write_host_key(folder / HOST_KEY, Ed25519PrivateKey.generate())
    _put_standins(folder / "standins")


def name_it(folder: Path, hostname: str) -> None:
    """Write the machine's name where its programs look for it."""
    (folder / "etc/hostname").write_text(f"{hostname}\n")
    (folder / "etc/hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {hostname}\n")


def write_host_key(path: Path, key: Ed25519PrivateKey, public: str = "") -> None:
    """Write a private key, for its owner only, and the public half beside it."""
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    new = path.with_suffix(".new")
    new.touch(0o600)
    new.write_bytes(private)
    new.replace(path)  # sshd may be reading it
    derived = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    path.with_name(f"{path.name}.pub").write_text(f"{public.strip() or derived}\n")


def write_private(path: Path, text: str, mode: int = 0o600) -> None:
    """Write what only root in there may read."""
    path.touch(mode)
    path.write_text(text)


def package_folders() -> list[str]:
    """Where the packages lie that this Python finds, and the machine's may use."""
    return [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]


def python_folders() -> list[str]:
    """What must be seen inside for this Python, its base and its packages to run."""
    base = Path(sys.executable).resolve().parent.parent
    wanted: Sequence[str] = (sys.base_prefix, sys.base_exec_prefix, sys.prefix, str(base))
    found = [*wanted, *package_folders()]
    found += [str(Path(path).resolve()) for path in found]
    return [path for path in dict.fromkeys(found) if not _within(path, "/usr") and path != "/"]


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """What a program of root's has in its environment, as after a login on the image."""
    return {
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "LOGNAME": "root",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "SHELL": "/bin/bash",
        "USER": "root",
        **more,
    }


def _within(path: str, folder: str) -> bool:
    return Path(path).is_relative_to(folder)


def _put_standins(folder: Path) -> None:
    """One program under many names, started by the interpreter that runs us."""
    shutil.copyfile(_PROGRAMS, folder / ".programs.py")
    interpreter = shlex.quote(str(Path(sys.executable).resolve()))
    start = f"exec {interpreter} -I -S /usr/local/sbin/.programs.py"
    for name in _STANDINS:
        (folder / name).write_text(f'#!/bin/sh\n{start} {name} "$0" "$@"\n')
        (folder / name).chmod(0o755)
    session = folder / ".session"
    login = shlex.join(f"{name}={value}" for name, value in environment({}).items())
    session.write_text(
        "#!/bin/bash\ncd /root\n"
        f'login=(/usr/bin/env -i {login} TERM="${{TERM-}}" SSH_CONNECTION="$SSH_CONNECTION")\n'
        '[ -n "${SSH_ORIGINAL_COMMAND-}" ] || exec "${login[@]}" bash -l\n'
        'exec "${login[@]}" bash -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    session.chmod(0o755)
