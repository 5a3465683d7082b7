"""Weights & Biases: what reaches it, and that training never waits for it."""

import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record

from model import checkpoint
from model.train import train
from model.wandb_feed import feed, main, start_run
from offline_wandb import history, offline_records, offline_runs
from tiny import CLASSES, journal, start_trainer, write_job

KEY = "0123456789" * 4  # of the form of a key, and nobody's


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training, fed to W&B offline while it ran."""
    folder = write_job(tmp_path_factory.mktemp("wandb") / "job")
    assert train(folder, run_id="run-7", wandb="offline")
    return folder


@pytest.fixture(scope="module")
def records(job: Path) -> list[Record]:
    (file,) = offline_runs(job)
    return list(offline_records(file))


def test_the_run_is_ours_by_id_and_group(job: Path, records: list[Record]) -> None:
    run = next(r.run for r in records if r.WhichOneof("record_type") == "run")
    best = checkpoint.best(job / "out" / "checkpoints")
    assert best
    description, _ = checkpoint.load(best / checkpoint.BLOB)
    assert run.run_id == description.wandb_id == "run-7"
    assert run.run_group == description.run_id
    assert run.project == "voc-train"
    config = {c.key: json.loads(c.value_json) for c in run.config.update}
    assert config["batch_size"] == description.recipe.batch_size
    assert config["dataset_digest"] == description.dataset_digest
    assert config["provenance"]["code"] == description.provenance.code


def test_everything_in_the_journal_reaches_wandb(job: Path, records: list[Record]) -> None:
    logged = history(records)
    assert set(logged) == {0, 1, 2, 3, 4, 5, 6}
    for record in journal(job, "step"):
        assert logged[record["step"]]["train/loss"] == record["loss"]
        assert logged[record["step"]]["lr"] == record["lr"]
    assert len(journal(job, "epoch")) == 2
    for record in journal(job, "epoch"):
        values = logged[record["step"]]
        assert values["val/miou"] == record["miou"]
        assert values["val/loss"] == record["val_loss"]
        assert values["train/epoch_loss"] == record["train_loss"]
        assert values["epoch"] == record["epoch"]
        for name in CLASSES:
            assert values.get(f"iou/{name}") == record["iou"][name]


def test_what_is_not_known_is_not_logged(job: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    run = start_run(tmp_path, journal(job, "start")[0], "offline")
    unknown = {"images_per_second": None, "iou": {"red": 0.5, "green": None}}
    feed(run, job, list(CLASSES), journal(job, "epoch")[0] | unknown)
    run.finish()
    wandb.teardown()
    (file,) = offline_runs(tmp_path)
    (logged,) = history(list(offline_records(file))).values()
    assert logged["iou/red"] == 0.5
    assert not {"images_per_second", "iou/green"} & logged.keys()


def test_samples_are_pictures_with_both_masks(job: Path, records: list[Record]) -> None:
    folder = offline_runs(job)[0].parent / "files"
    for step in (3, 6):
        pictures = {k: v for k, v in history(records)[step].items() if k.startswith("samples/")}
        assert pictures.keys() == {f"samples/val_{i:03d}" for i in range(4)}
        for picture in pictures.values():
            assert picture["_type"] == "image-file"
            assert (folder / picture["path"]).is_file()
            assert picture["masks"].keys() == {"truth", "prediction"}
            for mask in picture["masks"].values():
                assert (folder / mask["path"]).is_file()
        picture = pictures["samples/val_003"]
        assert (picture["height"], picture["width"]) == (20, 23)


def test_the_best_checkpoint_is_an_artifact_with_its_origin(
    job: Path, records: list[Record]
) -> None:
    (artifact,) = (
        r.request.log_artifact.artifact if r.WhichOneof("record_type") == "request" else r.artifact
        for r in records
        if r.WhichOneof("record_type") == "artifact"
    )
    best = checkpoint.best(job / "out" / "checkpoints")
    assert best
    manifest = checkpoint.verified(best)
    assert manifest
    assert (artifact.name, artifact.type) == ("checkpoint", "model")
    assert set(artifact.aliases) == {"latest", "run-run-7"}
    metadata = json.loads(artifact.metadata)
    assert metadata["weights_digest"] == manifest.weights_digest
    assert metadata["dataset_digest"] == manifest.dataset_digest
    assert metadata["archives"] == list(manifest.archives)
    assert metadata["provenance"] == manifest.provenance.model_dump()
    (entry,) = artifact.manifest.contents
    assert entry.path == checkpoint.BLOB
    assert entry.size == manifest.size


def test_the_run_ended_well_and_quietly(job: Path, records: list[Record]) -> None:
    ends = [r.exit.exit_code for r in records if r.WhichOneof("record_type") == "exit"]
    assert ends == [0]
    assert "size" not in (job / "out" / "wandb.log").read_text()


def test_a_run_can_be_filled_again_later(
    job: Path, records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = tmp_path / "job"
    (later / "out").mkdir(parents=True)
    for name in ("metrics.jsonl", "samples", "checkpoints"):
        (later / "out" / name).symlink_to(job / "out" / name)
    monkeypatch.setattr(sys, "argv", ["model.wandb_feed", str(later), "--mode", "auto"])
    assert main() == 0
    wandb.teardown()  # as at the end of a process: the last records are written
    (file,) = offline_runs(later)

    def curves(records: list[Record]) -> dict[int, dict[str, Any]]:
        kept = ("train/", "val/", "iou/", "lr", "epoch")
        return {
            step: {k: v for k, v in values.items() if k.startswith(kept)}
            for step, values in history(records).items()
        }

    assert curves(list(offline_records(file))) == curves(records)


# Servers that are not there


@pytest.fixture
def silent_server() -> Iterator[socket.socket]:
    """Takes every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        server.settimeout(0)
        yield server


def address(server: socket.socket) -> str:
    return f"http://127.0.0.1:{server.getsockname()[1]}"


def was_called(server: socket.socket) -> bool:
    try:
        server.accept()[0].close()
    except BlockingIOError:
        return False
    return True


@pytest.mark.parametrize(
    ("key", "mode", "calls"),
    [
        (None, "auto", False),
        (None, "offline", False),
        (KEY, "offline", False),
        (KEY, "auto", True),
        (KEY, "online", True),
    ],
)
def test_the_server_is_called_only_with_a_key(
    job: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    silent_server: socket.socket,
    key: str | None,
    mode: str,
    calls: bool,
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", address(silent_server))
    monkeypatch.delenv("WANDB_MODE")
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    (tmp_path / "out").mkdir()
    run = start_run(tmp_path, journal(job, "start")[0], mode, init_timeout=1)
    try:
        assert run.offline  # also where the server was called in vain
        feed(run, job, list(CLASSES), journal(job, "step")[0])
        run.finish()
    finally:
        wandb.teardown()
    assert was_called(silent_server) == calls
    (file,) = offline_runs(tmp_path)
    assert history(list(offline_records(file)))[1]["train/loss"] > 0


def processes_that_know(text: str) -> list[psutil.Process]:
    """Processes, this one aside, with that text in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and text in " ".join(process.environ().values()):
                found.append(process)
        except psutil.Error:
            continue
    return found


# So impatient that the feeder is still waiting for the server when it has to go.
PATIENCE = 0.5


def test_a_server_that_never_answers_does_not_stop_training(
    tmp_path: Path, silent_server: socket.socket
) -> None:
    job = write_job(tmp_path / "job")
    url = address(silent_server)
    env = {"WANDB_BASE_URL": url, "WANDB_API_KEY": KEY, "WANDB_MODE": "online"}
    options = ("--wandb", "online", "--wandb-patience", str(PATIENCE))
    process = start_trainer(job, *options, env=env)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert err == ""
    assert [line.split()[0] for line in out.splitlines()] == ["epoch", "epoch", "W&B"]
    assert len(journal(job, "epoch")) == 2
    assert journal(job)[-1]["kind"] == "finish"
    assert KEY not in out + (job / "out" / "wandb.log").read_text()
    _, alive = psutil.wait_procs(processes_that_know(url), timeout=60)
    assert not alive


def test_a_refused_connection_does_not_stop_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent_server: socket.socket
) -> None:
    job = write_job(tmp_path / "job")
    url = address(silent_server)
    silent_server.close()
    for name, value in (("BASE_URL", url), ("API_KEY", KEY), ("MODE", "online")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    assert train(job, run_id="run", wandb="online", wandb_patience=PATIENCE)
    assert len(journal(job, "epoch")) == 2
    assert journal(job)[-1]["kind"] == "finish"
    _, alive = psutil.wait_procs(processes_that_know(url), timeout=60)
    assert not alive
