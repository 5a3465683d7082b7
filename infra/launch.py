"""Start, watch and end the agent on the machine that this runs on; called there over SSH.

    python -m infra.launch start FOLDER --store URL --run RUN [--restart] <SECRETS
    python -m infra.launch state|stop|kill FOLDER

`start` reads the agent's environment as a JSON object from its input and returns when the agent
runs, detached: it survives whoever started it and, with `--restart`, a reboot. FOLDER is the run's:
`job/` and `agent.log`.
"""

import argparse
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.failure import Cause, Failure
from infra.processes import note_group, noted_group
from infra.restart import withdraw_order

# In the run's folder.
LOG = "agent.log"
JOB = "job"
# In the job's folder, as notes of processes.
AGENT = "agent"  # who works there, and holds a lock on this file
GROUP = "group"  # the job, for whoever has to end it where the agent cannot
_SECRETS = "secrets.json"
_START = 60.0  # seconds that an agent may take to say that it runs


def start(
    folder: Path, store_url: str, run_id: str, secrets: bytes, *, restart: bool = False
) -> str | None:
    """Start the agent; None when it runs, else why it does not.

    The secrets are in no file then, but in the order to `restart` it after a reboot.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    file, note = folder / _SECRETS, folder / JOB / AGENT
    command = [sys.executable, "-m", "infra.agent", "--store", store_url, "--run", run_id]
    command += ["--job", str(folder / JOB), "--secrets", str(file)]
    command += ["--restart"] if restart else []
    before = _text(note)  # of an agent with the same number, perhaps, before a reboot
    file.unlink(missing_ok=True)
    file.touch(0o600, exist_ok=False)
    try:
        file.write_bytes(secrets)
        with (folder / LOG).open("ab") as log:
            agent = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until = time.monotonic() + _START
        while time.monotonic() < until:
            ended = agent.poll() is not None
            # Its note, even if it has ended by now: then the store knows the rest.
            said = _text(note)
            if said != before and said.startswith(f"{agent.pid} "):
                return None
            if ended:
                break
            time.sleep(0.02)
        agent.kill()
    finally:
        file.unlink(missing_ok=True)
    words = _text(folder / LOG).strip().splitlines()
    return words[-1] if words else f"it ended with code {agent.wait()}"


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def stop(folder: Path) -> None:
    """Tell the agent to stop; harmless if it is over."""
    # Not SIGTERM, by which the machine says that it goes down.
    if leader := noted_group(folder / JOB / AGENT):
        with contextlib.suppress(ProcessLookupError):
            os.kill(leader, signal.SIGINT)


def kill(folder: Path) -> None:
    """Kill the agent with its job, and for good; harmless if it is over."""
    for name in (AGENT, GROUP):
        if leader := noted_group(folder / JOB / name):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(leader, signal.SIGKILL)
    withdraw_order(folder)


@contextmanager
def alone(job: Path) -> Iterator[None]:
    """Let no other agent work in this folder; Failure(BAD_INPUT) where one does."""
    try:
        job.mkdir(parents=True, exist_ok=True)
        note = (job / AGENT).open("a")
    except OSError:  # nothing can be written here, which the result will say
        yield
        return
    with note:
        try:
            fcntl.flock(note, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure(
                Cause.BAD_INPUT,
                f"An agent works in {job} already; wait for it, or stop it first.",
                permanent=True,
            ) from None
        with contextlib.suppress(OSError):  # a full disk; the lock holds all the same
            note_group(job / AGENT, os.getpid())
        yield


def take_secrets(file: Path) -> dict[str, str]:
    """Read keys into this process's environment, where /proc shows none, and remove the file."""
    try:
        said = file.read_bytes()
        file.unlink()
        secrets: dict[str, str] = json.loads(said)
        os.environ.update(secrets)
        return secrets
    except (OSError, ValueError, TypeError, AttributeError) as error:
        # Not what it says in full: that may quote the keys.
        raise Failure(
            Cause.BAD_INPUT,
            f"{file} is not a readable JSON object of environment variables "
            f"({type(error).__name__}).",
        ) from None


def main() -> int:
    """Command line; 1 with a reason on standard error when the agent did not start."""
    parser = argparse.ArgumentParser(prog="python -m infra.launch", description=__doc__)
    parser.add_argument("what", choices=("start", "state", "stop", "kill"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--store")
    parser.add_argument("--run")
    parser.add_argument("--restart", action="store_true")
    args = parser.parse_args()
    if args.what == "start":
        secrets = sys.stdin.buffer.read()
        reason = start(args.folder, args.store, args.run, secrets, restart=args.restart)
        if reason:
            print(reason, file=sys.stderr)
        return 1 if reason else 0
    if args.what == "state":
        print("running" if noted_group(args.folder / JOB / AGENT) else "gone")
    elif args.what == "stop":
        stop(args.folder)
    else:
        kill(args.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
