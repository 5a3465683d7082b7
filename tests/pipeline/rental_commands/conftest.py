"""A simulated account without machines, and the command line as it is typed against it."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from commands import COMMAND
from infra.clock import Clock
from infra.simulator import Simulator


@pytest.fixture
def requests() -> list[str]:
    """Every request to the simulated account."""
    return []


@pytest.fixture
def speed() -> float:
    """Simulated seconds in a real one."""
    return 60


@pytest.fixture
def simulator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, requests: list[str], speed: float
) -> Iterator[Simulator]:
    clock, folder = Clock.fast(speed), tmp_path / "simulator"
    with Simulator(folder, clock=clock, machines=False, tell=requests.append) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        yield simulator


@pytest.fixture
def bucket(simulator: Simulator) -> str:
    """URL of a store in a bucket of the account, for which the environment has no key."""
    httpx.post(
        f"{simulator.url}/object-storage/buckets",
        json={"label": "photos", "region": "us-ord"},
        headers={"Authorization": f"Bearer {simulator.token}"},
    ).raise_for_status()
    return "s3://photos/voc-train"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """The installed command, as a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [COMMAND, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
