"""What the tests of this room share: a store of their own, and agents that end with the test."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from infra.stores import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


@pytest.fixture
def start(store: Store, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start agents as processes of their own; what is left of them ends with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*more: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "infra.agent", "--store", store.url, "--run", "r"]
        command += ["--job", str(tmp_path / "job"), "--poll", "0.05", *more]
        with (tmp_path / "agent.log").open("ab") as log:
            started.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))
        return started[-1]

    yield start
    for agent in started:
        if agent.poll() is None:
            for child in psutil.Process(agent.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            agent.kill()
            agent.wait()
