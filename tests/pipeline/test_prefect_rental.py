"""The deployment `voc-train/linode`: server, worker, reaper and simulator, each its own process."""

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
import pytest

from infra.receipt import Receipt
from pipeline.parameters import Parameters
from pipeline.sample_archive import SAMPLE_CLASSES, write_sample_archive
from sandbox import require_sandbox
from servers.prefect import PrefectServer

_KINDS = ("linode/instances", "volumes", "networking/firewalls", "object-storage/keys")


class Process:
    """A Python module that runs beside the test, until its block ends."""

    def __init__(self, *arguments: str, **options: Any) -> None:
        self.process = psutil.Popen(
            [sys.executable, "-m", *arguments], stdin=subprocess.DEVNULL, text=True, **options
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


class Linode(Process):
    """The simulator, and the account in it as its owner sees it."""

    def __init__(self, stores: Path, log: Path) -> None:
        super().__init__(
            *("infra.simulator", "--speed", "60", "--share", str(stores)),
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
        )
        self.environment: dict[str, str] = {}
        while "VOC_TRAIN_CLOCK" not in self.environment:
            line = self.process.stdout.readline()
            assert line, log.read_text()
            name, _, value = line.removeprefix("export ").partition("=")
            (self.environment[name],) = shlex.split(value)

    def labels(self) -> list[str]:
        """Of everything that is there."""
        token = self.environment["LINODE_TOKEN"]
        with httpx.Client(headers={"Authorization": f"Bearer {token}"}, trust_env=False) as client:
            answers = [client.get(f"{self.environment['LINODE_URL']}/{kind}") for kind in _KINDS]
        return [thing["label"] for answer in answers for thing in answer.json()["data"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_sandbox()
    folder = tmp_path_factory.mktemp("rental")
    (folder / "stores" / "watched").mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def linode(folder: Path) -> Iterator[Linode]:
    with Linode(folder / "stores", folder / "simulator.err") as linode:
        yield linode


@pytest.fixture(scope="module")
def prefect(folder: Path, linode: Linode) -> Iterator[PrefectServer]:
    """A server, and a worker that rents from the simulator and knows its store."""
    with PrefectServer(folder, bare=True) as server:
        server.set_up()
        server.schedule("reaper/reaper", active=False)  # it looks when a test says so
        worker = {
            **linode.environment,
            "VOC_TRAIN_HOME": str(folder / "voc-train"),
            "VOC_TRAIN_STORE": (folder / "stores" / "watched").as_uri(),
        }
        server.start_worker(worker)
        yield server


@pytest.fixture
def reaper(folder: Path, linode: Linode, prefect: PrefectServer) -> Iterator[None]:
    """One that looks every five minutes, as the README has it."""
    store = folder / "stores" / "watched"
    program = "from pipeline.cli import main; main()"
    command = [sys.executable, "-c", program, "reap", "--delete", "--every", "5"]
    with (folder / "reaper.log").open("w") as log:
        process = psutil.Popen(
            [*command, "--store", store.as_uri()],
            env=prefect.environment | linode.environment,
            stdout=log,
            stderr=log,
        )
    try:
        prefect.wait("a reaper's look", (store / "reaper.json").exists)
        yield
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "shapes.tar"
    write_sample_archive(path, train=16, val=4, unlabelled=2)
    return path


def parameters(archive: Path, *, epochs: int, **more: Any) -> str:
    """What a user of the deployment types, beside what stands in prefect.yaml."""
    return json.dumps(
        {
            "parameters": {
                "archives": [str(archive)],
                "classes": list(SAMPLE_CLASSES),
                "recipe": "tiny",
                "overrides": {"min_miou": "none", "epochs": epochs},
                "wandb": "disabled",
                "workers": 0,
                "machine": "linode",
                **more,
            }
        }
    )


def latest(prefect: PrefectServer) -> dict[str, Any]:
    (flow_run,) = prefect.post(
        "flow_runs/filter",
        deployments={"name": {"any_": ["linode"]}},  # and none of a schedule to come
        sort="EXPECTED_START_TIME_DESC",
        limit=1,
    )
    return dict(flow_run)


def receipt_of(run: Path) -> Receipt:
    return Receipt.model_validate_json((run / "receipt.json").read_bytes())


def must_be_gone(run: Path, linode: Linode) -> None:
    """Its receipt says so, and so does the account."""
    lines = receipt_of(run).lines
    assert {line.kind for line in lines} == {"instance", "firewall", "stackscript"}
    assert all(line.gone for line in lines)
    assert linode.labels() == []


def test_as_it_is_deployed_it_rents_for_five_dollars_and_not_unwatched(
    prefect: PrefectServer,
) -> None:
    deployed = prefect.get("deployments/name/voc-train/linode")["parameters"]["parameters"]
    parameters = Parameters.model_validate(deployed)
    assert parameters.machine == "linode"
    assert parameters.rental.budget == 5
    assert parameters.rental.reaper
    assert "store" not in deployed  # it is the worker's


def test_the_reaper_is_deployed_to_look_every_ten_minutes_and_looks(
    prefect: PrefectServer, linode: Linode, folder: Path
) -> None:
    deployed = prefect.get("deployments/name/reaper/reaper")
    (schedule,) = deployed["schedules"]
    assert schedule["schedule"]["cron"] == "*/10 * * * *"
    assert deployed["global_concurrency_limit"]["limit"] == 1

    report = folder / "stores" / "watched" / "reaper.json"
    report.unlink(missing_ok=True)
    done = prefect.run("deployment", "run", "reaper/reaper", "--watch", check=False)
    assert done.returncode == 0, done.stdout + done.stderr + (folder / "worker.log").read_text()
    assert json.loads(report.read_bytes())["deletes"]


def test_a_deployed_run_rents_trains_and_leaves_nothing(
    prefect: PrefectServer, linode: Linode, reaper: None, archive: Path, folder: Path
) -> None:
    done = prefect.run(
        *("deployment", "run", "voc-train/linode", "--watch"),
        *("--params", parameters(archive, epochs=2)),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr + (folder / "worker.log").read_text()

    flow_run = latest(prefect)
    artifacts = prefect.post(
        "artifacts/filter", artifacts={"flow_run_id": {"any_": [flow_run["id"]]}}
    )
    (receipt,) = [a for a in artifacts if a["key"] == "voc-train-receipt"]
    assert {row["what"].split()[0] for row in json.loads(receipt["data"])} == {
        "instance", "firewall", "stackscript",
    }  # fmt: skip

    (run,) = (folder / "stores" / "watched" / "runs").iterdir()  # the worker's own store
    assert json.loads((run / "run.json").read_bytes())["state"] == "done"
    assert (folder / "voc-train" / "checkpoints" / run.name / "checkpoint.pt").exists()
    must_be_gone(run, linode)


def test_without_a_reaper_nothing_is_rented_and_the_log_says_why(
    prefect: PrefectServer, linode: Linode, archive: Path, folder: Path
) -> None:
    store = folder / "stores" / "unwatched"
    done = prefect.run(
        *("deployment", "run", "voc-train/linode", "--watch"),
        *("--params", parameters(archive, epochs=2, store=store.as_uri())),
        check=False,
    )
    assert done.returncode == 1
    assert latest(prefect)["state"]["type"] == "FAILED"
    assert "No reaper that deletes has looked" in (folder / "worker.log").read_text()
    assert not list(store.glob("runs/*/intents/*"))
    assert linode.labels() == []


def test_a_cancelled_run_tears_its_machine_down(
    prefect: PrefectServer, linode: Linode, reaper: None, archive: Path, folder: Path
) -> None:
    runs = folder / "stores" / "watched" / "runs"
    before = set(runs.glob("*"))
    prefect.run(
        *("deployment", "run", "voc-train/linode"),
        *("--params", parameters(archive, epochs=100_000)),
    )
    flow_run = latest(prefect)

    def training() -> list[Path]:
        return [run for run in set(runs.glob("*")) - before if (run / "metrics.jsonl").exists()]

    prefect.wait("training", training, 200)
    (run,) = training()
    assert f"voc-train-{run.name}-t1" in linode.labels()
    prefect.run("flow-run", "cancel", flow_run["id"])
    prefect.wait(
        "the state CANCELLED",
        lambda: prefect.get(f"flow_runs/{flow_run['id']}")["state"]["type"] == "CANCELLED",
    )
    prefect.wait("the receipt", (run / "receipt.json").exists)
    must_be_gone(run, linode)
    assert json.loads((run / "run.json").read_bytes())["cause"] == "CANCELLED"
