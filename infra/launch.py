"""Start, watch and end the agent on the machine that this runs on; called there over SSH.

    python -m infra.launch start FOLDER --store URL --run RUN <SECRETS
    python -m infra.launch state|stop|kill FOLDER

`start` reads the agent's environment as a JSON object from its input and returns when the agent
runs, detached: it survives whoever started it. FOLDER is the run's: `job/` and `agent.log`.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from infra.processes import noted_group

# In the run's folder.
LOG = "agent.log"
JOB = "job"
# In the job's folder, as notes of processes.
AGENT = "agent"  # who works there, and holds a lock on this file
GROUP = "group"  # the job, for whoever has to end it where the agent cannot
_SECRETS = "secrets.json"
_START = 60.0  # seconds that an agent may take to say that it runs


def start(folder: Path, store_url: str, run_id: str, secrets: bytes) -> str | None:
    """Start the agent; None when it runs, else why it does not. The secrets are in no file then."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    file, note = folder / _SECRETS, folder / JOB / AGENT
    command = [sys.executable, "-m", "infra.agent", "--store", store_url, "--run", run_id]
    command += ["--job", str(folder / JOB), "--secrets", str(file)]
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
            with contextlib.suppress(OSError):
                if note.read_text().startswith(f"{agent.pid} "):
                    return None
            if ended:
                break
            time.sleep(0.02)
        agent.kill()
    finally:
        file.unlink(missing_ok=True)
    said = (folder / LOG).read_text(errors="replace").strip().splitlines()
    return said[-1] if said else f"it ended with code {agent.wait()}"


def end(folder: Path, how: signal.Signals) -> None:
    """Tell the agent to stop (SIGTERM), or kill it with its job (SIGKILL); harmless if over."""
    notes = (AGENT,) if how is signal.SIGTERM else (AGENT, GROUP)
    for name in notes:
        leader = noted_group(folder / JOB / name)
        with contextlib.suppress(ProcessLookupError):
            if leader and how is signal.SIGTERM:
                os.kill(leader, how)
            elif leader:
                os.killpg(leader, how)


def main() -> int:
    """Command line; 1 with a reason on standard error when the agent did not start."""
    parser = argparse.ArgumentParser(prog="python -m infra.launch", description=__doc__)
    parser.add_argument("what", choices=("start", "state", "stop", "kill"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--store")
    parser.add_argument("--run")
    args = parser.parse_args()
    if args.what == "start":
        reason = start(args.folder, args.store, args.run, sys.stdin.buffer.read())
        if reason:
            print(reason, file=sys.stderr)
        return 1 if reason else 0
    if args.what == "state":
        print("running" if noted_group(args.folder / JOB / AGENT) else "gone")
    else:
        end(args.folder, signal.SIGTERM if args.what == "stop" else signal.SIGKILL)
    return 0


if __name__ == "__main__":
    sys.exit(main())
