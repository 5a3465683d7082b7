"""This computer as a machine: the agent starts, stops and cleans up after itself."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from agents import log_of, put_spec, until
from infra.failure import Cause
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
