"""The deployment `voc-train/local` on a real Prefect server with a real process worker."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.sample_archive import SAMPLE_CLASSES, write_sample_archive
from pipeline.stages.train import JobSpec
from servers.prefect import PrefectServer


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    folder = tmp_path_factory.mktemp("prefect")
    with PrefectServer(folder, bare=True) as server:
        server.set_up()
        server.start_worker({"VOC_TRAIN_HOME": str(folder / "voc-train")})
        yield server


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "shapes.tar"
    write_sample_archive(path, train=16, val=4, unlabelled=2)
    return path


def parameters(archive: Path, store: Path, **overrides: Any) -> str:
    return json.dumps(
        {
            "parameters": {
                "archives": [str(archive)],
                "classes": list(SAMPLE_CLASSES),
                "recipe": "tiny",
                "overrides": {"min_miou": "none", **overrides},
                "store": store.as_uri(),
                "wandb": "disabled",
                "workers": 0,
            }
        }
    )


def latest(prefect: PrefectServer) -> dict[str, Any]:
    (flow_run,) = prefect.post(
        "flow_runs/filter",
        deployments={"name": {"any_": ["local"]}},  # and none of a schedule to come
        sort="START_TIME_DESC",
        limit=1,
    )
    return dict(flow_run)


def processes_of(run_id: str) -> list[psutil.Process]:
    """Every process on this computer whose command line names the run."""
    return [p for p in psutil.process_iter(["cmdline"]) if run_id in (p.info["cmdline"] or [])]


def test_the_deployment_runs_to_a_checkpoint_and_shows_it(
    prefect: PrefectServer, archive: Path, tmp_path: Path
) -> None:
    done = prefect.run(
        *("deployment", "run", "voc-train/local", "--watch"),
        *("--params", parameters(archive, tmp_path / "store", epochs=2)),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

    flow_run = latest(prefect)
    assert flow_run["state"]["type"] == "COMPLETED"
    tasks = prefect.post("task_runs/filter", flow_runs={"id": {"any_": [flow_run["id"]]}})
    states = {task["name"].rsplit("-", 1)[0]: task["state"]["type"] for task in tasks}
    assert states == dict.fromkeys(
        ("extract", "separate", "build-dataset", "train", "fetch-checkpoint", "evaluate"),
        "COMPLETED",
    )

    artifacts = prefect.post(
        "artifacts/filter", artifacts={"flow_run_id": {"any_": [flow_run["id"]]}}
    )
    kinds = {(artifact["type"], artifact["key"]) for artifact in artifacts}
    assert {
        ("table", "voc-train-stages"),
        ("image", "voc-train-samples"),
        ("markdown", "voc-train-summary"),
        ("progress", "voc-train-train"),
    } <= kinds
    by_key = {artifact["key"]: artifact["data"] for artifact in artifacts}
    rows = json.loads(by_key["voc-train-stages"])
    assert [row["stage"] for row in rows] == [
        "extract", "separate", "build-dataset", "train", "fetch-checkpoint", "evaluate",
    ]  # fmt: skip
    assert by_key["voc-train-train"] == 100
    assert by_key["voc-train-samples"].startswith("data:image/png;base64,")
    assert "mIoU" in by_key["voc-train-summary"]

    (run,) = (tmp_path / "store" / "runs").iterdir()
    assert json.loads((run / "run.json").read_bytes())["state"] == "done"
    logs = prefect.post("logs/filter", logs={"flow_run_id": {"any_": [flow_run["id"]]}})
    assert any("epoch 2/2" in log["message"] for log in logs)


def test_a_bad_parameter_is_refused_before_anything_starts(
    prefect: PrefectServer, archive: Path, tmp_path: Path
) -> None:
    text = parameters(archive, tmp_path / "store").replace('"disabled"', '"sometimes"')
    done = prefect.run("deployment", "run", "voc-train/local", "--params", text, check=False)
    assert done.returncode != 0
    assert "sometimes" in done.stdout + done.stderr
    assert not (tmp_path / "store").exists()


def test_a_bad_archive_fails_the_run_with_its_sentence(
    prefect: PrefectServer, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.tar"
    broken.write_bytes(b"this is no tar" * 100)
    done = prefect.run(
        *("deployment", "run", "voc-train/local", "--watch"),
        *("--params", parameters(broken, tmp_path / "store")),
        check=False,
    )
    assert done.returncode == 1
    flow_run = latest(prefect)
    assert flow_run["state"]["type"] == "FAILED"
    assert "broken.tar" in flow_run["state"]["message"]


def test_a_cancelled_run_stops_its_training(
    prefect: PrefectServer, archive: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    prefect.run(
        *("deployment", "run", "voc-train/local"),
        *("--params", parameters(archive, store, epochs=100_000)),
    )

    def trains() -> bool:
        return any(path.stat().st_size for path in store.glob("runs/*/metrics.jsonl"))

    prefect.wait("training", trains)
    (spec,) = store.glob("runs/*/spec.json")
    run_id = JobSpec.model_validate_json(spec.read_bytes()).run_id
    assert processes_of(run_id)
    flow_run = latest(prefect)
    prefect.run("flow-run", "cancel", flow_run["id"])
    prefect.wait("the end of training", lambda: not processes_of(run_id))
    prefect.wait(
        "the state CANCELLED",
        lambda: prefect.get(f"flow_runs/{flow_run['id']}")["state"]["type"] == "CANCELLED",
    )
    result = json.loads((spec.parent / "result.json").read_bytes())
    assert result["cause"] == "CANCELLED"
    assert list((spec.parent / "checkpoints").iterdir()), "a stopped run leaves a checkpoint"
