"""A whole rental on this computer: a simulated account, its machines, and who rents there."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.clock import Clock
from infra.failure import Cause, Failure
from infra.lease import Patience
from infra.protocol import JobSpec, Result
from infra.receipt import Receipt, read_receipt
from infra.simulator import Simulator
from infra.simulator.machine import MachineFault
from infra.simulator.things import Instance, Machine
from infra.stores import Store
from model.manifest import Manifest, Shard
from pipeline.machines import first_that_lasts, workplaces
from pipeline.parameters import Parameters
from pipeline.run import Run
from pipeline.stages.train import train
from pipeline.tenancy import Workplace

VOC_TRAIN = str(Path(sys.executable).with_name("voc-train"))
SPEED = 60.0  # seconds of the clock in a real one
_RECORDED = Path(__file__).parents[2].parent / "shared" / "linode"
# The deadlines of the phases as these tests can wait for them: seconds of the clock, the rest real.
_PATIENCE: dict[str, float] = {"capacity": 60, "boot": 240, "deletion": 180}
_PATIENCE |= {"login": 20, "set_up": 100, "heartbeat": 60, "stall": 60}
# A training that takes a second, and passes every gate.
TINY = ("--recipe", "tiny", "--set", "epochs=1", "--set", "width=1", "--set", "depth=1")
TINY += ("--set", "min_miou=none", "--workers", "0", "--wandb", "disabled", "--json")
# A job that has no end.
WORKING = "print('at work', flush=True); import time; time.sleep(600)"

Deed = Callable[[], object]
Start = Callable[..., psutil.Popen]  # fixture: begins a run, returns when it says a word
Impatient = Callable[..., None]  # fixture: another deadline for phases, as in impatient(stall=8)


def specification() -> Path | None:
    """Linode's OpenAPI file, where this computer has it."""
    folder = Path(os.environ.get("VOC_TRAIN_TEST_LINODE", _RECORDED))
    return next(iter(sorted(folder.glob("openapi*.json"))), None)


class Account(Simulator):
    """A simulated account whose machines may have something wrong with them from the start."""

    ills: tuple[MachineFault, ...] = ()
    programs: dict[str, str] = {}  # noqa: RUF012  # name to shell script, instead of the system's

    def _machine(self, instance: Instance) -> Machine | None:
        machine = super()._machine(instance)
        folder = self._folder / "machines" / str(instance.id)
        if self.ills:
            described = json.loads((folder / "etc/simulated.json").read_text())
            described["faults"] = sorted(self.ills)
            (folder / "etc/simulated.json").write_text(json.dumps(described))
        for name, script in self.programs.items():
            (folder / "standins" / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / "standins" / name).chmod(0o755)
        return machine

    def disk(self, label: str) -> Path:
        """Where the disk of a machine lies, as its root sees it from `/`."""
        (found,) = [one for one in self.account.all(Instance) if one.label == label]
        return self._folder / "machines" / str(found.id)


class Listener:
    """Keeps what is said, and does something as soon as it is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.failed: list[Exception] = []
        self._deeds: list[tuple[str, Deed]] = []

    def when(self, word: str, deed: Deed) -> None:
        """Do it once, when a line with that word is said first; what it raises, the run gets."""
        self._deeds.append((word, deed))

    def interrupt_when(self, word: str) -> None:
        """Press Ctrl-C then."""

        def interrupt() -> None:
            raise KeyboardInterrupt

        self.when(word, interrupt)

    def said(self, stage: str, line: str) -> None:
        self.lines.append(line)
        for due in [deed for deed in self._deeds if deed[0] in line]:
            self._deeds.remove(due)
            try:
                due[1]()
            except Exception as error:  # a run goes on when a listener fails; a test must not
                self.failed.append(error)
                raise

    def began(self, run_id: str) -> None: ...
    def started(self, stage: str) -> None: ...
    def advanced(self, stage: str, done: float, total: float | None, note: str) -> None: ...
    def finished(self, stage: str, seconds: float, reused: bool, summary: str) -> None: ...
    def decided(self, run_id: str, said: str) -> None: ...
    def ended(self, run_id: str, problem: str | None) -> None: ...


class Renter:
    """Who rents a machine for a small job, through the flow's own parts but without Prefect."""

    def __init__(self, store: Store, **terms: Any) -> None:
        parameters = Parameters(
            archives=("none.tar",),
            classes=("background", "thing"),
            recipe="tiny",
            store=store.url,
            machine="linode",
            rental={"reaper": False, **terms},
            wandb="disabled",
        )
        self.listener = Listener()
        self.run = Run(parameters, [self.listener])

    @property
    def receipt(self) -> Receipt:
        """What it left in the store."""
        receipt = read_receipt(self.run.store, self.run.run_id)
        assert receipt, "there is no receipt"
        return receipt

    @property
    def phases(self) -> list[str]:
        """Names of the timeline, each once."""
        return list(dict.fromkeys(phase.name for phase in self.receipt.phases))

    @property
    def label(self) -> str:
        """Of the first machine it rents."""
        return f"voc-train-{self.run.run_id}-t1"

    def rent(self, code: str = "print('done')", *, gigabytes: float = 0) -> Result:
        """Rent, run this Python text there, tear down; `gigabytes` is the size of the data."""
        job = JobSpec(
            run_id=self.run.run_id, argv=("python", "-c", code), inputs=(), files={},
            deadline_seconds=600,
        )  # fmt: skip
        try:
            with self.run.recorded(), workplaces(self.run, _dataset(gigabytes)) as places:
                return first_that_lasts(places, partial(self._train, job))
        finally:
            assert not self.listener.failed

    def _train(self, job: JobSpec, place: Workplace) -> Result:
        return train(
            job,
            self.run.store,
            place.machine,
            clock=place.clock,
            patience=place.patience,
            say=partial(self.listener.said, "train"),
            begun=place.begun,
            must_hold=self.run.must_hold,
        )


def fails(renter: Renter, cause: Cause, code: str = "pass", *, gigabytes: float = 0) -> str:
    """Rent in vain; returns the sentence."""
    with pytest.raises(Failure) as caught:
        renter.rent(code, gigabytes=gigabytes)
    assert caught.value.cause is cause, caught.value
    assert not renter.receipt.leaked
    return str(caught.value)


def stops(renter: Renter, word: str) -> None:
    """Rent until a line with that word, and press Ctrl-C."""
    renter.listener.interrupt_when(word)
    with pytest.raises(KeyboardInterrupt):
        renter.rent(WORKING)
    assert not renter.receipt.leaked


def be_impatient(patch: pytest.MonkeyPatch, **patience: float) -> None:
    """Let the phases of a rental have deadlines that a test can wait for."""
    patch.setattr("pipeline.tenancy.Patience", partial(Patience, **{**_PATIENCE, **patience}))


def do_without_prefect(patch: pytest.MonkeyPatch) -> None:
    """Outside a flow Prefect would start a server of its own for the one table of the receipt."""
    patch.setattr("pipeline.artifacts.show_receipt", lambda receipt: None)


def _dataset(gigabytes: float) -> Manifest:
    shards = (Shard(name="00000.tar", size=int(gigabytes * 1e9), sha256=""),)
    return Manifest(
        key="", digest="", classes=(), counts={}, pixels={}, archives=(), max_side=None,
        shards=shards, index_sha256="", left_out={},
    )  # fmt: skip


def inside() -> list[psutil.Process]:
    """Every process behind the walls of a machine that this process has started."""
    own = Path("/proc/self/ns/pid").readlink()
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if Path(f"/proc/{process.pid}/ns/pid").readlink() != own:
                found.append(process)
        except OSError:  # it has ended
            continue
    return found


def kill_agent() -> None:
    """On every machine."""
    for process in inside():
        with suppress(psutil.NoSuchProcess):  # others come and go meanwhile
            if "infra.agent" in process.cmdline():
                process.kill()


def left_over(folder: Path) -> list[str]:
    """Our descendants that have to do with machines in `folder`, by their command lines."""
    running = {process.pid: process for process in inside()}
    for process in psutil.Process().children(recursive=True):
        try:
            if any(str(folder) in word for word in process.cmdline()):
                running[process.pid] = process
        except psutil.Error:
            continue
    return [str(process) for process in running.values()]


def voc_train(
    arguments: Sequence[str], environment: dict[str, str], *, code: int = 0
) -> subprocess.CompletedProcess[str]:
    """The command line as a process of its own."""
    done = subprocess.run(
        [VOC_TRAIN, *arguments],
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


def clock() -> Clock:
    """One in which an hour passes in a minute."""
    return Clock.fast(SPEED)
