"""How an agent's job ends: a cause for every end, and nothing left running."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agents import PATIENCE, is_running, log_of, put_spec, run_agent, until
from infra.agent import UNSENT, Agent
from infra.failure import Cause
from infra.protocol import Result
from infra.stores import Store

# How jobs end: Python text, exit code, cause, a part of the message.
_ENDS = {
    "its own word": (
        'open("out/failure.json", "w").write(\'{"cause": "BAD_INPUT", "message": "take care"}\')\n'
        "raise SystemExit(2)",
        (2, Cause.BAD_INPUT, "take care"),
    ),
    "a word that is none": (
        "open('out/failure.json', 'w').write('{\"cause\": \"WHO\"}'); raise SystemExit('my bad')",
        (1, Cause.USER_ERROR, "code 1: my bad"),
    ),
    "killed": (
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        (-9, Cause.KILLED, "SIGKILL, and not for want of memory"),
    ),
    "an exception": ("print('one'); 1 / 0", (1, Cause.USER_ERROR, "ZeroDivisionError: division")),
    "no memory on the GPU": (
        "raise RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')",
        (1, Cause.OUT_OF_MEMORY, "batch_size"),
    ),
    "a GPU that is lost": (
        "raise RuntimeError('CUDA error: unspecified launch failure')",
        (1, Cause.DRIVER, "unspecified launch failure"),
    ),
    "no word at all": ("raise SystemExit(3)", (3, Cause.USER_ERROR, "ended with code 3")),
}


@pytest.mark.parametrize("how", _ENDS)
def test_every_end_has_a_cause(store: Store, tmp_path: Path, how: str) -> None:
    code, (exit_code, cause, message) = _ENDS[how]
    put_spec(store, code)
    result = run_agent(store, tmp_path / "job")
    assert (result.exit_code, result.cause) == (exit_code, cause)
    assert message in result.message


def test_an_earlier_attempts_failure_is_forgotten(store: Store, tmp_path: Path) -> None:
    put_spec(store, _ENDS["its own word"][0])
    assert run_agent(store, tmp_path / "job").cause is Cause.BAD_INPUT
    put_spec(store, "raise SystemExit(1)")
    unsent = tmp_path / "job" / UNSENT
    unsent.write_text("{}")
    assert run_agent(store, tmp_path / "job").cause is Cause.USER_ERROR
    assert not unsent.exists()


def test_the_deadline_stops_the_job(store: Store, tmp_path: Path) -> None:
    put_spec(store, "import time; time.sleep(600)", deadline=2)
    result = run_agent(store, tmp_path / "job")
    assert (result.cause, result.exit_code) == (Cause.DEADLINE, -signal.SIGTERM)
    assert "time limit" in result.message


# Ends half a second after the first SIGTERM, with the number of SIGTERMs that came.
_writes_on_sigterm = """
import os, signal, sys, threading, time
came = []
signal.signal(signal.SIGTERM, lambda *_: came.append(1))
print('ready', os.getpid(), flush=True)
while not came: time.sleep(0.01)
time.sleep(0.5)
os.makedirs('out/checkpoints/1')
open('out/checkpoints/1/blob', 'w').write(f'SIGTERM {len(came)}\\n')
sys.exit(143)
"""


def test_stopping_the_agent_stops_the_job_once(
    store: Store, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    put_spec(store, _writes_on_sigterm)
    agent = start()
    until(lambda: log_of(store).startswith(b"ready"))
    job = int(log_of(store).split()[1])
    agent.terminate()
    agent.terminate()

    assert agent.wait(PATIENCE) == 1
    result = store.read("runs/r/result.json", Result)
    assert result
    assert (result.cause, result.exit_code) == (Cause.CANCELLED, 143)
    assert store.get("runs/r/checkpoints/1/blob") == b"SIGTERM 1\n"
    assert not is_running(job)


def test_interrupt_is_a_stop_too(
    store: Store, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    put_spec(store, "print('ready', flush=True); import time; time.sleep(600)")
    agent = start()
    until(lambda: log_of(store) == b"ready\n")
    agent.send_signal(signal.SIGINT)
    assert agent.wait(PATIENCE) == 1
    result = store.read("runs/r/result.json", Result)
    assert result
    assert result.cause is Cause.CANCELLED


@pytest.mark.parametrize("inputs", [0, 1])
def test_a_stop_before_the_job_starts_none(store: Store, tmp_path: Path, inputs: int) -> None:
    gone = {"key": "gone", "path": "gone", "size": 7, "sha256": "0" * 64}  # not even asked for
    put_spec(store, "print('ran')", inputs=inputs * [gone])
    agent = Agent(store, "r", tmp_path / "job", 0.05)
    agent.stop()
    assert agent.run().cause is Cause.CANCELLED
    assert log_of(store) == b""


def test_whoever_ignores_the_signal_is_killed_after_the_grace(
    store: Store, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    put_spec(
        store,
        "import os, subprocess, sys\n"
        f"{deaf}"
        f"child = subprocess.Popen([sys.executable, '-c', {deaf + 'time.sleep(600)'!r}])\n"
        "print(os.getpid(), child.pid, flush=True)\n"
        "time.sleep(600)\n",
    )
    agent = start("--grace", "0.2")
    until(lambda: log_of(store))
    family = [int(pid) for pid in log_of(store).split()]
    assert all(is_running(one) for one in family)
    agent.terminate()

    assert agent.wait(PATIENCE) == 1
    result = store.read("runs/r/result.json", Result)
    assert result
    assert (result.cause, result.exit_code) == (Cause.CANCELLED, -9)
    until(lambda: not any(is_running(one) for one in family))


def test_what_a_job_leaves_behind_ends_with_it(store: Store, tmp_path: Path) -> None:
    put_spec(
        store,
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid)\n",
    )
    assert run_agent(store, tmp_path / "job").cause is None
    pid = int(log_of(store))
    until(lambda: not is_running(pid))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_a_killed_agent_takes_its_job_along(
    store: Store, tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    put_spec(store, _writes_on_sigterm)
    agent = start()
    until(lambda: log_of(store).startswith(b"ready"))
    job = int(log_of(store).split()[1])
    agent.kill()

    until(lambda: not is_running(job))
    # The kernel may tell it once for each of the agent's threads.
    assert (tmp_path / "job/out/checkpoints/1/blob").read_text().startswith("SIGTERM")
