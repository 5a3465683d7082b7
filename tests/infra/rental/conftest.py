"""A simulated account without machines, on a clock that runs an hour in a second."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.clock import Clock
from infra.linode import Linode
from infra.rental import Rental
from infra.simulator import Simulator
from infra.stores import Store

RUN = "261121-4k2ra"


@pytest.fixture
def clock() -> Clock:
    return Clock.fast(3600)


@pytest.fixture
def simulator(tmp_path: Path, clock: Clock) -> Iterator[Simulator]:
    with Simulator(tmp_path / "simulator", clock=clock, machines=False) as simulator:
        yield simulator
        assert not simulator.touched  # nothing of others, ever


@pytest.fixture
def provider(simulator: Simulator, clock: Clock) -> Linode:
    return Linode(simulator.token, simulator.url, clock=clock)


@pytest.fixture
def rental(provider: Linode, store: Store, clock: Clock) -> Rental:
    return Rental(provider, store, RUN, clock=clock, say=lambda line: None)
