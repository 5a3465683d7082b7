"""One GPU at a time: a real server and worker, real machines of the simulator, and who waits."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect import flow, runtime
from prefect.settings import PREFECT_API_URL, temporary_settings

from agents import until
from infra.intents import Intent, Intents
from infra.protocol import Result, now
from infra.provider import Kind
from infra.stores import Store
from pipeline import rental_queue
from pipeline.parameters import Parameters, RentalTerms
from pipeline.rental_queue import place_to_rent
from pipeline.run import Run
from pipeline.run_record import RunRecord
from rentals import VOC_TRAIN, Account, clock
from sandbox import require_sandbox
from servers.prefect import PrefectServer, kill

_REPOSITORY = Path(__file__).parents[2]
_PLACES = "v2/concurrency_limits/voc-train-rental"
_SMALL = """
deployments:
  - name: small
    entrypoint: small_flow.voc_train
    work_pool: {name: voc-train}
"""
# It ends, with an error, as soon as it finds what it waits for.
_PROGRAM = """
import pathlib, time
while not pathlib.Path({go!r}).exists():
    time.sleep(0.1)
raise SystemExit(3)
"""


class Renter:
    """A flow run that wants a machine."""

    def __init__(self, server: PrefectServer, folder: Path, name: str) -> None:
        self._server = server
        self.store = folder / "stores" / name
        self.store.mkdir()
        program = folder / f"{name}.py"
        program.write_text(_PROGRAM.format(go=str(self.store / "go")))
        deployment = server.get("deployments/name/voc-train/small")["id"]
        parameters = {
            "archives": [str(program)],
            "classes": ["background", "thing"],
            "recipe": "tiny",
            "store": self.store.as_uri(),
            "wandb": "disabled",
            "machine": "linode",
            "rental": {"budget": 5, "reaper": False, "ssh_from": ["127.0.0.0/8"]},
        }
        flow_run = server.post(
            f"deployments/{deployment}/create_flow_run",
            parameters={"parameters": parameters},
        )
        self.id = str(flow_run["id"])

    @property
    def state(self) -> dict[str, Any]:
        return dict(self._server.get(f"flow_runs/{self.id}")["state"])

    @property
    def log(self) -> str:
        logs = {"flow_run_id": {"any_": [self.id]}}
        return "\n".join(one["message"] for one in self._server.post("logs/filter", logs=logs))

    def is_at_work(self) -> bool:
        return bool(list(self.store.glob("runs/*/heartbeat.json")))

    def is_in(self, name: str) -> bool:
        return str(self.state["name"]) == name

    def rents(self) -> None:
        """Wait until it has a machine at work."""
        self._server.wait(f"the machine of {self.id}", self.is_at_work)
        assert self.is_in("Renting")

    def ends(self) -> None:
        """Have its program end, and wait for the end of the flow run."""
        (self.store / "go").touch()
        self._server.wait(f"the end of {self.id}", lambda: self.state["type"] == "FAILED")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_sandbox()
    folder = tmp_path_factory.mktemp("queue")
    (folder / "stores").mkdir()
    return folder


@pytest.fixture(scope="module")
def account(folder: Path) -> Iterator[Account]:
    with Account(folder / "linode", clock=clock(), shares=(folder / "stores",)) as account:
        yield account


@pytest.fixture(scope="module")
def environment(folder: Path, account: Account) -> dict[str, str]:
    return account.environment() | {"VOC_TRAIN_HOME": str(folder / "voc-train")}


@pytest.fixture(scope="module")
def worker(server: PrefectServer, environment: dict[str, str]) -> psutil.Popen:
    return server.start_worker(environment)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[PrefectServer]:
    """One that `setup` has prepared."""
    with PrefectServer(folder, bare=True) as server:
        path = [str(_REPOSITORY), str(_REPOSITORY / "tests/support")]
        path.append(server.environment.get("PYTHONPATH", ""))
        server.environment["PYTHONPATH"] = os.pathsep.join(path)
        (folder / "small.yaml").write_text(_SMALL)
        server.set_up("--file", str(folder / "small.yaml"))
        yield server


@pytest.fixture
def renter(server: PrefectServer, folder: Path) -> Iterator[Callable[[str], Renter]]:
    """Starts a flow run; none is left working for the next test to wait for."""
    started: list[Renter] = []

    def start(name: str) -> Renter:
        started.append(Renter(server, folder, name))
        return started[-1]

    yield start
    for one in started:
        (one.store / "go").touch()


def instances(account: Account) -> list[str]:
    return [thing.label for thing in account.left() if thing.kind == "instance"]


def test_of_two_at_once_one_waits_and_says_for_whom(
    server: PrefectServer,
    worker: psutil.Popen,
    account: Account,
    renter: Callable[[str], Renter],
) -> None:
    first = renter("first")
    first.rents()
    second = renter("second")
    server.wait("its waiting", lambda: second.is_in("AwaitingRental"))
    assert f"now by flow run tiny ({first.id})" in second.state["message"]
    waits = f"now by flow run tiny ({first.id}); waiting for its end"
    server.wait("its word of it", lambda: waits in second.log)  # logs are sent in batches
    assert len(instances(account)) == 1
    assert not list(second.store.glob("runs/*/intents/*"))

    first.ends()
    second.rents()
    assert len(instances(account)) == 1
    second.ends()
    assert "it is this run's turn to rent" in second.log
    assert instances(account) == []
    assert server.get(_PLACES)["active_slots"] == 0


def test_the_place_of_one_that_was_killed_is_given_free(
    server: PrefectServer,
    worker: psutil.Popen,
    account: Account,
    environment: dict[str, str],
    renter: Callable[[str], Renter],
) -> None:
    killed = renter("killed")
    killed.rents()
    (run,) = killed.store.glob("runs/*")
    heir = renter("heir")
    server.wait("its waiting", lambda: heir.is_in("AwaitingRental"))
    (process,) = [
        process
        for process in worker.children()
        if process.environ().get("PREFECT__FLOW_RUN_ID") == killed.id
    ]
    kill(process)
    heir.rents()
    assert killed.state["type"] == "CRASHED"
    heir.ends()

    command = [VOC_TRAIN, "reap", "--delete", "--run", run.name, "--store", killed.store.as_uri()]
    subprocess.run(command, env=server.environment | environment, check=False, timeout=60)
    until(lambda: instances(account) == [])


@pytest.fixture
def taken(server: PrefectServer) -> Iterator[None]:
    """The one place is somebody's for as long as the test lasts."""
    server.patch(_PLACES, active_slots=1)
    holder = server.post(
        "flow_runs/",
        flow_id=server.post("flows/", name="voc-train")["id"],
        state={"type": "RUNNING", "name": "Renting"},
    )
    yield
    server.delete(f"flow_runs/{holder['id']}")
    server.patch(_PLACES, active_slots=0)


def test_one_that_is_cancelled_while_it_waits_leaves_the_queue(
    server: PrefectServer, worker: psutil.Popen, renter: Callable[[str], Renter], taken: None
) -> None:
    cancelled = renter("cancelled")
    server.wait("its waiting", lambda: cancelled.is_in("AwaitingRental"))
    server.run("flow-run", "cancel", cancelled.id)
    server.wait("its end", lambda: cancelled.state["type"] == "CANCELLED")
    (run,) = cancelled.store.glob("runs/*/run.json")
    assert json.loads(run.read_bytes())["cause"] == "CANCELLED"
    assert server.get(_PLACES)["active_slots"] == 1


def goes_at_once(server: PrefectServer, run: Run) -> bool:
    """Whether nobody keeps it waiting; the test's patience is the only other end."""

    @flow(name="voc-train")
    def rents() -> bool:
        with place_to_rent(run):
            return True

    with temporary_settings({PREFECT_API_URL: server.api}):
        return rents()


def wants(store: Store, machine: str, *, earlier: bool = False) -> Run:
    """A run of which nothing is done yet; `earlier`, that another controller has begun."""
    parameters = Parameters(
        archives=("a.tar",),
        recipe="tiny",
        machine=machine,
        store=store.url,
        rental=RentalTerms(ssh_from=("127.0.0.0/8",)),
    )
    record = RunRecord(run_id="r", state="running", started=now(), parameters={})
    return Run(parameters, [], earlier=record if earlier else None)


def test_who_leaves_the_queue_while_being_cancelled_stays_so(
    server: PrefectServer, store: Store
) -> None:
    def state() -> str:
        return str(server.get(f"flow_runs/{runtime.flow_run.id}")["state"]["type"])

    @flow(name="voc-train")
    def rents() -> tuple[str, str]:
        with place_to_rent(wants(store, "linode")):
            rented = state()
            change = {"type": "CANCELLING"}
            server.post(f"flow_runs/{runtime.flow_run.id}/set_state", state=change)
        return rented, state()

    with temporary_settings({PREFECT_API_URL: server.api}):
        assert rents() == ("RUNNING", "CANCELLING")
    assert server.get(_PLACES)["active_slots"] == 0


@pytest.mark.timeout(60, func_only=True)
def test_a_training_here_needs_no_place(server: PrefectServer, store: Store, taken: None) -> None:
    assert goes_at_once(server, wants(store, "local"))


@pytest.mark.timeout(60, func_only=True)
def test_a_rehearsal_neither_waits_nor_takes_the_place(
    server: PrefectServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    @flow(name="voc-train")
    def rehearses() -> int:
        with place_to_rent(wants(store, "linode")):
            return int(server.get(_PLACES)["active_slots"])

    monkeypatch.setenv("LINODE_URL", "http://127.0.0.1:8080/v4")
    for slots in (0, 1):
        server.patch(_PLACES, active_slots=slots)
        with temporary_settings({PREFECT_API_URL: server.api}):
            assert rehearses() == slots
    server.patch(_PLACES, active_slots=0)


@pytest.mark.timeout(60, func_only=True)
def test_a_run_that_has_its_machine_already_is_not_kept_from_it(
    server: PrefectServer, store: Store, taken: None
) -> None:
    intent = Intent(kind=Kind.INSTANCE, label="voc-train-r-t1", time=now(), until=now())
    Intents(store, "r").intend(intent)
    assert goes_at_once(server, wants(store, "linode", earlier=True))
    assert server.get(_PLACES)["active_slots"] == 1


@pytest.mark.timeout(60, func_only=True)
def test_a_run_that_is_trained_already_waits_for_nobody(
    server: PrefectServer, store: Store, taken: None
) -> None:
    ended = Result(exit_code=0, cause=None, message="", started=now(), ended=now())
    store.write("runs/r/result.json", ended)
    assert goes_at_once(server, wants(store, "linode", earlier=True))


@pytest.mark.timeout(60, func_only=True)
def test_a_server_of_the_run_s_own_has_no_queue(
    server: PrefectServer, store: Store, taken: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rental_queue, "is_temporary", lambda: True)
    assert goes_at_once(server, wants(store, "linode"))
