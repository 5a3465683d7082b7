"""This computer as a machine: the agent starts, stops and cleans up after itself."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from infra.failure import Cause
from infra.machines import LocalMachine
from infra.protocol import JobSpec, Result
from infra.stores import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "a store"))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[LocalMachine]:
    machine = LocalMachine(tmp_path / "jobs" / "r")
    yield machine
    machine.stop()


def _spec(store: Store, code: str) -> None:
    spec = JobSpec(run_id="r", argv=("python", "-c", code), deadline_seconds=600)
    store.put("runs/r/spec.json", spec.model_dump_json().encode())


def _log(store: Store) -> bytes:
    return b"".join(store.get(entry.key) or b"" for entry in store.list("runs/r/log"))


def _until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_a_job_runs_to_its_result(store: Store, machine: LocalMachine, tmp_path: Path) -> None:
    assert not machine.alive()
    machine.stop()  # nothing to stop yet
    _spec(store, "import os; print(os.getcwd())")
    machine.start(store, "r")
    assert machine.alive()
    _until(lambda: not machine.alive())

    result = store.read("runs/r/result.json", Result)
    assert result
    assert result.cause is None
    assert Path(_log(store).decode().strip()).is_relative_to(tmp_path / "jobs" / "r")

    machine.clean()
    assert not (tmp_path / "jobs" / "r").exists()


def test_stop_leaves_nothing_running_and_may_be_said_twice(
    store: Store, machine: LocalMachine
) -> None:
    _spec(store, "import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    machine.start(store, "r")
    agents = [child for child in psutil.Process().children() if "infra.agent" in child.cmdline()]
    assert len(agents) == 1
    _until(lambda: _log(store))
    machine.stop()
    machine.stop()

    assert not machine.alive()
    assert not agents[0].is_running()
    assert not psutil.pid_exists(int(_log(store)))
    result = store.read("runs/r/result.json", Result)
    assert result
    assert result.cause is Cause.CANCELLED


def test_ctrl_c_in_the_terminal_reaches_the_controller_only(
    store: Store, machine: LocalMachine
) -> None:
    """The terminal sends it to the whole process group, so the agent must not be in ours."""
    _spec(store, "import os, time; print(os.getpgid(0), os.getpgid(os.getppid())); time.sleep(600)")
    machine.start(store, "r")
    _until(lambda: _log(store).endswith(b"\n"))
    job, agent = (int(group) for group in _log(store).split())
    assert len({job, agent, os.getpgid(0)}) == 3


def test_the_agents_last_words_are_kept(machine: LocalMachine, tmp_path: Path) -> None:
    assert machine.last_words() == "it said nothing"
    store = Store.open(str(tmp_path / "store"))
    machine.start(store, "r")
    _until(lambda: not machine.alive())  # there is no such run
    assert machine.last_words() == "it said nothing"  # but the result says it

    for name in ("first", "last"):
        broken = Store.open(str(tmp_path / name))
        (tmp_path / name).touch()
        machine.start(broken, "r")
        _until(lambda: not machine.alive())
    assert "last is a file; a store is a folder" in machine.last_words()
