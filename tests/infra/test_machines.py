"""This computer as a machine: the agent starts, stops and cleans up after itself."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import infra.machines
from agents import PATIENCE, is_running, log_of, put_spec, until
from infra.failure import Cause, Failure
from infra.machines import LocalMachine
from infra.protocol import Result
from infra.stores import Store


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[LocalMachine]:
    machine = LocalMachine(tmp_path / "jobs" / "r")
    yield machine
    machine.stop()


def test_a_job_runs_to_its_result(store: Store, machine: LocalMachine, tmp_path: Path) -> None:
    assert not machine.alive()
    machine.stop()  # nothing to stop yet
    put_spec(store, "import os; print(os.getcwd())")
    machine.start(store, "r")
    assert machine.alive()
    until(lambda: not machine.alive())

    result = store.read("runs/r/result.json", Result)
    assert result
    assert result.cause is None
    assert Path(log_of(store).decode().strip()).is_relative_to(tmp_path / "jobs" / "r")

    machine.clean()
    assert not (tmp_path / "jobs" / "r").exists()


def test_stop_leaves_nothing_running_and_may_be_said_twice(
    store: Store, machine: LocalMachine
) -> None:
    put_spec(store, "import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    machine.start(store, "r")
    agents = [child for child in psutil.Process().children() if "infra.agent" in child.cmdline()]
    assert len(agents) == 1
    until(lambda: log_of(store))
    machine.stop()
    machine.stop()

    assert not machine.alive()
    assert not agents[0].is_running()
    assert not psutil.pid_exists(int(log_of(store)))
    result = store.read("runs/r/result.json", Result)
    assert result
    assert result.cause is Cause.CANCELLED


# Stops a machine that its arguments name.
_controller = """
import sys
from pathlib import Path
from agents import log_of, until
from infra.machines import LocalMachine
from infra.stores import Store
store, machine = Store.open(sys.argv[1]), LocalMachine(Path(sys.argv[2]))
machine.start(store, "r")
until(lambda: log_of(store))
machine.stop()
"""
# Says its own number and the agent's; it does not end when it is told to.
_deaf = (
    "import os, signal, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: print('told', flush=True))\n"
    "print(os.getpid(), os.getppid(), flush=True)\n"
    "while True: time.sleep(600)"
)


def test_whoever_loses_patience_leaves_nothing_running_either(store: Store, tmp_path: Path) -> None:
    put_spec(store, _deaf)
    controller = subprocess.Popen(
        [sys.executable, "-c", _controller, store.url, str(tmp_path / "jobs" / "r")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.DEVNULL,
    )
    until(lambda: b"told" in log_of(store))  # so the controller waits in stop()
    family = [int(pid) for pid in log_of(store).split()[:2]]
    assert all(is_running(pid) for pid in family)
    try:
        for _ in range(3):
            controller.send_signal(signal.SIGINT)
        assert controller.wait(PATIENCE)
        assert not any(is_running(pid) for pid in family)
    finally:
        controller.kill()
        for pid in filter(is_running, family):
            os.kill(pid, signal.SIGKILL)


def _start_and_lose_the_agent(store: Store, machine: LocalMachine, *more: signal.Signals) -> int:
    """Kill the agent, after `more` signals to its job; returns the job's number."""
    machine.start(store, "r")
    until(lambda: log_of(store).endswith(b"\n"))
    job, agent = (int(pid) for pid in log_of(store).split())
    for one in more:
        os.kill(job, one)
    os.kill(agent, signal.SIGKILL)
    until(lambda: not machine.alive())
    return job


def test_a_job_without_an_agent_may_store_a_checkpoint_before_it_ends(
    store: Store, machine: LocalMachine, tmp_path: Path
) -> None:
    last = tmp_path / "last"
    put_spec(
        store,
        "import os, pathlib, signal, time\n"
        "told = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: told.append(1))\n"
        "print(os.getpid(), os.getppid(), flush=True)\n"
        "while not told: time.sleep(0.01)\n"
        f"time.sleep(0.5); pathlib.Path({str(last)!r}).touch()",
    )
    job = _start_and_lose_the_agent(store, machine)
    machine.stop()
    assert last.exists()
    assert not is_running(job)


@pytest.mark.parametrize("more", [(), (signal.SIGSTOP,)])
def test_a_job_without_an_agent_that_does_not_end_is_killed(
    store: Store,
    machine: LocalMachine,
    monkeypatch: pytest.MonkeyPatch,
    more: tuple[signal.Signals, ...],
) -> None:
    monkeypatch.setattr(infra.machines, "GRACE", 0.1)
    put_spec(store, _deaf)
    job = _start_and_lose_the_agent(store, machine, *more)
    assert is_running(job)
    machine.stop()
    assert not is_running(job)


def test_a_folder_that_cannot_be_written_is_named(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Failure, match=r"/file/r cannot be written \(Not a directory\)") as caught:
        LocalMachine(tmp_path / "file" / "r").start(store, "r")
    assert caught.value.cause is Cause.STORE


def test_ctrl_c_in_the_terminal_reaches_the_controller_only(
    store: Store, machine: LocalMachine
) -> None:
    """The terminal sends it to the whole process group, so the agent must not be in ours."""
    put_spec(
        store, "import os, time; print(os.getpgid(0), os.getpgid(os.getppid())); time.sleep(600)"
    )
    machine.start(store, "r")
    until(lambda: log_of(store).endswith(b"\n"))
    job, agent = (int(group) for group in log_of(store).split())
    assert len({job, agent, os.getpgid(0)}) == 3


def test_the_agents_last_words_are_kept(machine: LocalMachine, tmp_path: Path) -> None:
    assert machine.last_words() == "it said nothing"
    store = Store.open(str(tmp_path / "store"))
    machine.start(store, "r")
    until(lambda: not machine.alive())  # there is no such run
    assert machine.last_words() == "it said nothing"  # but the result says it

    for name in ("the first", "the last"):
        broken = Store.open(str(tmp_path / name))
        (tmp_path / name).touch()
        machine.start(broken, "r")
        until(lambda: not machine.alive())
    assert "the last is a file; a store is a folder" in machine.last_words()


def test_in_a_hurry_nobody_waits_for_a_last_word(
    store: Store, machine: LocalMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its agent does not answer, and the hours of a rented machine go on."""
    put_spec(store, _deaf)
    machine.start(store, "r")
    until(lambda: log_of(store).endswith(b"\n"))
    job, agent = (int(pid) for pid in log_of(store).split()[:2])
    os.kill(agent, signal.SIGSTOP)
    machine.stop(hurry=True)
    assert not is_running(agent)
    assert not is_running(job)
