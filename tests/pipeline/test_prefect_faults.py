"""Prefect's own faults, each while a machine is rented: what becomes of the rental and the state.

A real server, real workers, and the flow with a small program in place of training. That a run is
cancelled in the UI is in `test_prefect_rental.py`.
"""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from agents import is_running, until
from rentals import VOC_TRAIN, Account, clock
from sandbox import require_sandbox
from servers.prefect import POOL, PrefectServer, kill

_REPOSITORY = Path(__file__).parents[2]
_DEPLOYMENT = f"""
name: faults
deployments:
  - name: small
    entrypoint: tests/support/small_flow.py:voc_train
    work_pool: {{name: {POOL}}}
"""
# It fails as soon as it finds what it waits for.
_PROGRAM = """
import pathlib, time
while not pathlib.Path({go!r}).exists():
    time.sleep(0.1)
raise SystemExit(3)
"""


class Driven:
    """A flow run that has a machine at work."""

    def __init__(self, server: PrefectServer, worker: psutil.Popen, id: str, store: Path) -> None:
        self.server = server
        self.worker = worker
        self.id = id
        self.go = store / "go"
        self._store = store

    @property
    def state(self) -> str:
        return str(self.server.get(f"flow_runs/{self.id}")["state"]["type"])

    @property
    def run(self) -> Path:
        """Its folder in the store."""
        (run,) = self._store.glob("runs/*")
        return run

    @property
    def process(self) -> psutil.Process:
        """That of the flow, a child of its worker."""
        (found,) = [
            process
            for process in self.worker.children()
            if process.environ().get("PREFECT__FLOW_RUN_ID") == self.id
        ]
        return found

    def is_at_work(self) -> bool:
        return bool(list(self._store.glob("runs/*/heartbeat.json")))


def interrupt(driven: Driven) -> None:
    """An exception that nobody catches ends the process."""
    driven.process.send_signal(signal.SIGINT)


def kill_flow(driven: Driven) -> None:
    kill(driven.process)


def kill_worker(driven: Driven) -> None:
    kill(driven.worker)


def stop_worker(driven: Driven) -> None:
    """Prefect's worker kills its flow runs when it is told to stop."""
    driven.worker.terminate()


def cancel_unheard(driven: Driven) -> None:
    """As the button in the UI does it, while the worker hears nothing."""
    process = driven.process.pid
    driven.worker.suspend()
    driven.server.post(f"flow_runs/{driven.id}/set_state", state={"type": "CANCELLING"})
    until(lambda: not is_running(process))
    kill(driven.worker)


def restart_server(driven: Driven) -> None:
    driven.server.restart()
    assert driven.state == "RUNNING"
    driven.go.touch()


@dataclass(frozen=True)
class Fault:
    deed: Callable[[Driven], None]
    state: str  # in Prefect, at last
    torn_down: bool = True  # by the run itself; or else it is left to `reap` and to `resume`
    own_worker: bool = False

    @property
    def name(self) -> str:
        return self.deed.__name__


FAULTS = [
    Fault(interrupt, "CRASHED"),
    Fault(kill_flow, "CRASHED", torn_down=False),
    Fault(kill_worker, "CRASHED", own_worker=True),
    Fault(stop_worker, "RUNNING", torn_down=False, own_worker=True),  # see automations.yaml
    Fault(cancel_unheard, "CRASHED", own_worker=True),
    Fault(restart_server, "FAILED"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_sandbox()
    folder = tmp_path_factory.mktemp("faults")
    (folder / "stores").mkdir()
    return folder


@pytest.fixture(scope="module")
def account(folder: Path) -> Iterator[Account]:
    """Linode on this computer, with something of somebody else's in it."""
    with Account(folder / "linode", clock=clock(), shares=(folder / "stores",)) as account:
        account.add_foreign("volume", "somebody-elses", ["voc-train-not"])
        yield account


@pytest.fixture(scope="module")
def environment(folder: Path, account: Account) -> dict[str, str]:
    """Of the workers: who may rent, and where the store is."""
    return account.environment() | {
        "VOC_TRAIN_HOME": str(folder / "voc-train"),
        "VOC_TRAIN_STORE": (folder / "stores" / "watched").as_uri(),
        "PYTHONPATH": os.pathsep.join([str(_REPOSITORY), str(_REPOSITORY / "tests/support")]),
    }


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[PrefectServer]:
    with PrefectServer(folder) as server:
        yield server


@pytest.fixture(scope="module")
def driven(folder: Path, server: PrefectServer, environment: dict[str, str]) -> dict[str, Driven]:
    """A flow run for each fault, all at work at once."""
    (folder / "small.yaml").write_text(_DEPLOYMENT)
    server.run("deploy", "--all", "--prefect-file", str(folder / "small.yaml"))
    deployment = server.get("deployments/name/voc-train/small")["id"]
    workers = {"default": server.start_worker(environment)}
    found = {}
    for fault in FAULTS:
        queue = fault.name if fault.own_worker else "default"
        if queue not in workers:
            workers[queue] = server.start_worker(environment, queue)
        store = folder / "stores" / fault.name
        store.mkdir()
        program = folder / f"{fault.name}.py"
        program.write_text(_PROGRAM.format(go=str(store / "go")))
        flow_run = server.post(
            f"deployments/{deployment}/create_flow_run",
            parameters={"parameters": parameters(program, store)},
            work_queue_name=queue,
        )
        found[fault.name] = Driven(server, workers[queue], flow_run["id"], store)
    for name, one in found.items():
        server.wait(f"the machine of {name}", one.is_at_work)
    return found


def parameters(program: Path, store: Path) -> dict[str, Any]:
    return {
        "archives": [str(program)],
        "classes": ["background", "thing"],
        "recipe": "tiny",
        "store": store.as_uri(),
        "wandb": "disabled",
        "machine": "linode",
        "rental": {"budget": 5, "reaper": False, "ssh_from": ["127.0.0.0/8"]},
    }


def left_of(run: Path, account: Account) -> list[str]:
    """Labels of what is there for that run; the StackScript is one for all runs."""
    return [thing.label for thing in account.left() if run.name in thing.label]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_rental_is_gone_or_found_and_the_state_is_true(
    fault: Fault,
    driven: dict[str, Driven],
    account: Account,
    environment: dict[str, str],
    server: PrefectServer,
) -> None:
    one = driven[fault.name]
    process, run = one.process.pid, one.run
    assert f"voc-train-{run.name}-t1" in left_of(run, account)

    fault.deed(one)
    until(lambda: not is_running(process))
    server.wait(f"the state {fault.state}", lambda: one.state == fault.state)
    record = json.loads((run / "run.json").read_bytes())
    if fault.torn_down:
        assert left_of(run, account) == []
        receipt = json.loads((run / "receipt.json").read_bytes())
        assert {line["kind"] for line in receipt["lines"]} >= {"instance", "firewall"}
        assert all(line["gone"] for line in receipt["lines"])
        assert record["state"] == "failed"
    else:
        assert record["state"] == "running"  # nobody was there to write another
        command = [VOC_TRAIN, "reap", "--delete", "--run", run.name]
        store = run.parents[1].as_uri()
        subprocess.run(
            [*command, "--store", store], env=os.environ | environment, check=False, timeout=60
        )
        until(lambda: left_of(run, account) == [])
    assert account.touched == []
