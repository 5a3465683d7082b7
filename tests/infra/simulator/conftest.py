"""A simulated account without machines, in a time that passes only when a test says so."""

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from linode_api4 import LinodeClient

from infra.clock import Clock
from infra.simulator import Simulator

_START = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
_RECORDED = Path(__file__).parents[3].parent / "shared" / "linode"


@dataclass(frozen=True)
class HandClock(Clock):
    """Stands still until a test moves it on."""

    passed: list[float] = field(default_factory=lambda: [0.0])

    def now(self) -> datetime:
        return _START + timedelta(seconds=self.passed[0])

    def move(self, seconds: float) -> None:
        self.passed[0] += seconds


class Account:
    """A client of the simulator: the official one, and bare requests for what that cannot say."""

    def __init__(self, simulator: Simulator, clock: HandClock) -> None:
        self.simulator = simulator
        self.clock = clock
        self.linode = LinodeClient(simulator.token, base_url=simulator.url, retry=False)
        self.http = httpx.Client(base_url=simulator.url, trust_env=False)
        self.http.headers["Authorization"] = f"Bearer {simulator.token}"

    def instance(self, label: str = "voc-train-a", **more: Any) -> Any:
        """An instance, asked for as the project does."""
        wanted = {"image": "linode/ubuntu24.04", "authorized_keys": "ssh-ed25519 AAAA a"}
        wanted |= {"interface_generation": "legacy_config"} | more
        return self.linode.linode.instance_create(
            wanted.pop("ltype", "g6-nanode-1"),
            wanted.pop("region", "us-ord"),
            label=label,
            **wanted,
        )

    def running(self, label: str = "voc-train-a", **more: Any) -> Any:
        """An instance that is up."""
        instance = self.instance(label, **more)
        self.clock.move(65)
        assert self.status(instance.id) == "running"
        return instance

    def close(self) -> None:
        self.http.close()
        self.linode.session.close()

    def status(self, id: int) -> str:
        return str(self.get(f"/linode/instances/{id}")["status"])

    def get(self, path: str) -> Any:
        return self.linode.get(path)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def simulator(tmp_path: Path, clock: HandClock) -> Iterator[Simulator]:
    with Simulator(tmp_path / "simulator", clock=clock, machines=False) as simulator:
        yield simulator


@pytest.fixture
def account(simulator: Simulator, clock: HandClock) -> Iterator[Account]:
    with closing(Account(simulator, clock)) as account:
        yield account


@pytest.fixture(scope="module")
def shared_account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    """One account for all tests of a file that change nothing in it."""
    clock = HandClock()
    folder = tmp_path_factory.mktemp("simulator")
    with (
        Simulator(folder, clock=clock, machines=False) as simulator,
        closing(Account(simulator, clock)) as account,
    ):
        yield account


@pytest.fixture(scope="session")
def recorded() -> Path:
    """The folder with Linode's OpenAPI file and recorded traffic."""
    folder = Path(os.environ.get("VOC_TRAIN_TEST_LINODE", _RECORDED))
    if not folder.is_dir():
        pytest.skip(f"no recordings at {folder}: name their folder in VOC_TRAIN_TEST_LINODE")
    return folder
