"""Seconds that are billed while nothing trains: against the plan that this project grew out of.

That plan, done by hand, had a machine with a CPU prepare a Volume, one with a GPU be set up beside
it, both shut down, the Volume moved, the GPU's booted again, and all of it backwards for the
checkpoint. It is done here on the same simulated account, as fast as its answers allow, with what
our own rehearsal took for preparation, set-up, training and copying; and it deletes what it rented.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

from linode_api4 import ApiError, Instance, LinodeClient, Volume

from infra.ownership import label, tags
from infra.provider import Kind, Thing, VolumeOrder
from infra.receipt import Receipt, read_receipt
from infra.stores import Store
from lease_world import RUN, World
from pairs import Row

_SPEED = 60.0  # simulated seconds in a real one
_LOOKS = 5.0  # simulated seconds between two questions


def rows(folder: Path) -> Iterator[Row]:
    """Simulated seconds of all machines together, less those of training."""
    number = count()
    took: dict[str, float] = {}

    def ours() -> float:
        home = folder / f"rehearsal-{next(number)}"
        said = subprocess.run(
            [Path(sys.executable).with_name("voc-train"), "rehearse", "--json"],
            env=os.environ | {"VOC_TRAIN_HOME": str(home)}, stdout=subprocess.PIPE, check=True,
        ).stdout  # fmt: skip
        outcome = json.loads(said.splitlines()[-1])
        receipt = read_receipt(Store.open(str(home / "rehearsal" / "store")), outcome["run_id"])
        assert receipt
        seconds = {name: _SPEED * value for name, value in outcome["seconds"].items()}
        began = {phase.name: phase.time for phase in receipt.phases}
        took.update(
            prepare=seconds["extract"] + seconds["separate"] + seconds["build-dataset"],
            set_up=(began["training"] - began["set-up"]).total_seconds(),
            train=seconds["train"],
            copy=seconds["fetch-checkpoint"],
        )
        return _billed(receipt) - took["train"]

    def by_hand() -> float:
        return _by_hand(**took)

    yield Row(
        "rental: seconds billed but not training", "two machines and a Volume, by hand",
        "of the time", 0.5, ours, by_hand,
        besides=lambda: "by hand both are paid for while one prepares, is set up or copies; ours "
        "prepares here. Simulated seconds of each: "
        + ", ".join(f"{name.replace('_', '-')} {seconds:.0f}" for name, seconds in took.items())
        + ".",
    )  # fmt: skip


def _billed(receipt: Receipt) -> float:
    machines = [line for line in receipt.lines if line.kind is Kind.INSTANCE]
    lives = [(line.created, line.gone) for line in machines]
    return sum((gone - created).total_seconds() for created, gone in lives if gone and created)


def _by_hand(*, prepare: float, set_up: float, train: float, copy: float) -> float:
    world = World()
    world.start()
    try:
        return _Hands(world).all_of_it(prepare, set_up, train, copy)
    finally:
        world.close()


class _Hands:
    """Somebody at the provider's web page who never hesitates."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._client = LinodeClient(world.simulator.token, base_url=world.simulator.url)
        self._tags = tags(RUN, world.clock.now() + timedelta(days=9))  # nobody ends it for them

    def all_of_it(self, prepare: float, set_up: float, train: float, copy: float) -> float:
        """The eleven steps, and the deletion of both machines; billed seconds less training."""
        now, wait = self._world.clock.now, self._world.clock.sleep
        began = now()
        cpu = self._rented("c", "g6-standard-4")
        volume = self._volume(cpu)
        wait(prepare)
        gpu_began = now()
        gpu = self._rented("t", "g2-gpu-rtx4000a1-s")
        wait(set_up)
        for machine in (cpu, gpu):
            self._when_idle(machine.shutdown)
        for machine in (cpu, gpu):
            self._until(machine, "offline")
        self._moved(volume, gpu)
        self._when_idle(gpu.boot)
        self._until(gpu, "running")
        wait(train)
        self._moved(volume, cpu)
        self._when_idle(cpu.boot)
        self._until(cpu, "running")
        wait(copy)
        for machine in (cpu, gpu):
            self._when_idle(machine.delete)
        end = now()
        return (end - began).total_seconds() + (end - gpu_began).total_seconds() - train

    def _rented(self, letter: str, plan: str) -> Instance:
        machine = self._client.load(Instance, self._world.rent(letter, plan, self._tags))
        self._until(machine, "running")
        return machine

    def _volume(self, machine: Instance) -> Volume:
        order = VolumeOrder(label(RUN, "v"), self._tags, "us-ord", 20)
        made = self._world.provider.create(order)
        assert isinstance(made, Thing)
        volume = self._client.load(Volume, made.id)
        self._until(volume, "active")
        volume.attach(machine.id)
        self._until_at(volume, machine.id)
        return volume

    def _moved(self, volume: Volume, machine: Instance) -> None:
        volume.detach()
        self._until_at(volume, None)
        volume.attach(machine.id)
        self._until_at(volume, machine.id)

    def _when_idle(self, act: Callable[[], object]) -> None:
        while True:
            try:
                act()
                return
            except ApiError as refusal:
                if "busy" not in str(refusal):
                    raise
                self._world.clock.sleep(_LOOKS)

    def _until(self, thing: Any, status: str) -> None:
        self._look_until(thing, lambda: thing.status == status)

    def _until_at(self, volume: Volume, machine: int | None) -> None:
        self._look_until(volume, lambda: volume.linode_id == machine)

    def _look_until(self, thing: Any, reached: Callable[[], bool]) -> None:
        while not reached():
            self._world.clock.sleep(_LOOKS)
            thing.invalidate()
