"""Whether machines can be simulated on this computer, and how to make it so."""

import json
import os
import pwd
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from infra.failure import Cause, Failure
from infra.simulator import sandbox
from infra.simulator.machine_disk import lay_out, python_folders
from infra.simulator.machine_ssh import apart, program, sftp_server

# The settings that forbid user namespaces: what stands in them then, and what would allow them.
_SETTINGS = {
    "user.max_user_namespaces": ("0", "15000"),
    "kernel.unprivileged_userns_clone": ("0", "1"),
    "kernel.apparmor_restrict_unprivileged_userns": ("1", "0"),
}
_SSHD = (
    "install it with `sudo apt install openssh-server`; its service need not run "
    "(`sudo systemctl disable --now ssh`)."
)


def must_be_possible() -> None:
    """Try a sandbox, and look for the programs that simulated machines need.

    Raises Failure(SETUP_FAILED), permanent, with the cure, where something is missing.
    """
    if sys.platform != "linux":
        raise _failure("Machines can only be simulated on Linux; take a Linux computer.")
    for name in ("nsenter", "unshare"):
        if program(name) is None:
            raise _failure(f"{name} is missing: install util-linux with your package manager.")
    if program("sshd") is None or sftp_server() is None:
        raise _failure(f"OpenSSH's server, which simulated machines run, is missing: {_SSHD}")
    if not Path("/usr/local/sbin").is_dir():
        raise _failure("The folder /usr/local/sbin is missing: `sudo mkdir -p /usr/local/sbin`.")
    _check_user()
    reason = _try_sandbox()
    if reason is not None:
        raise _failure(f"This computer lets nobody build a sandbox ({reason}): {_cure()}")


def _check_user() -> None:
    """Who logs in to a simulated machine is, outside of it, the user that simulates it."""
    try:
        shell = pwd.getpwuid(os.geteuid()).pw_shell
    except KeyError:
        raise _failure(
            f"sshd needs a user name, and user {os.geteuid()} has none: use another user."
        ) from None
    if Path(shell).name in ("false", "nologin"):
        raise _failure(f"sshd needs a user that may log in, and yours has the shell {shell}.")


def _try_sandbox() -> str | None:
    """None, or what went wrong."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "machine").resolve()
        lay_out(folder, gpus=0, faults=())
        walls = sandbox.Walls(str(folder), "trial", python_folders(), [])
        command = [str(Path(sys.executable).resolve()), "-I", "-S", sandbox.__file__]
        ended = subprocess.run(
            command, input=json.dumps(asdict(walls)) + "\n", capture_output=True, text=True
        )
    if not ended.stdout:
        return (ended.stderr.strip().splitlines() or ["it ended without a word"])[-1]
    if os.geteuid() == 0:
        tried = subprocess.run(apart(["true"]), capture_output=True, text=True)
        return tried.stderr.strip() if tried.returncode else None
    return None


def _cure() -> str:
    for name, (forbids, allows) in _SETTINGS.items():
        setting = Path("/proc/sys", *name.split("."))
        if setting.exists() and setting.read_text().strip() == forbids:
            return f"user namespaces are switched off; `sudo sysctl -w {name}={allows}` cures it."
    return "in a container, allow user namespaces and mounts, as `--privileged` does."


def _failure(sentence: str) -> Failure:
    return Failure(Cause.SETUP_FAILED, sentence, permanent=True)
