"""Training: it learns, says what it does, and obeys every setting."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from model import checkpoint
from model.job import Job
from model.manifest import VOID
from model.nets import build_net
from model.optim import build_optimiser, build_schedule
from model.state import TrainingState
from model.train import train
from tiny import RECIPE, journal, run_main, steps, write_job


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training of ten epochs."""
    job = write_job(tmp_path_factory.mktemp("learned") / "job", epochs=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert train(job, run_id="run-7")
    return job


def test_loss_falls_and_miou_rises(learned: Path) -> None:
    epochs = journal(learned, "epoch")
    assert [record["epoch"] for record in epochs] == list(range(1, 11))
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"] - 0.1
    assert epochs[-1]["val_loss"] < epochs[0]["val_loss"]
    assert max(e["miou"] for e in epochs) > epochs[0]["miou"] + 0.1


def test_the_journal_tells_the_whole_story(learned: Path) -> None:
    (start,) = journal(learned, "start")
    assert start["run_id"] == start["wandb_id"] == "run-7"
    assert start["recipe"] == json.loads((learned / "recipe.json").read_text())
    assert start["provenance"]["threads"] == 1
    assert steps(learned) == list(range(1, 31))
    assert all(record["loss"] > 0 and record["lr"] > 0 for record in journal(learned, "step"))
    rates = [record["lr"] for record in journal(learned, "step")]
    assert max(rates) == pytest.approx(0.02, rel=0.05)  # the peak lies at 30 %
    assert rates.index(max(rates)) in (7, 8, 9)
    for record in journal(learned, "epoch"):
        inside = [s["loss"] for s in journal(learned, "step")][record["step"] - 3 : record["step"]]
        assert record["train_loss"] == pytest.approx(sum(inside) / 3, rel=1e-5)
    assert journal(learned)[-1]["kind"] == "finish"
    progress = json.loads((learned / "out" / "progress.json").read_bytes())
    assert (progress["step"], progress["total_steps"]) == (30, 30)


def test_best_and_last_are_kept_and_described(learned: Path) -> None:
    folder = learned / "out" / "checkpoints"
    epochs = journal(learned, "epoch")
    best = max(epochs, key=lambda record: (record["miou"], record["step"]))
    assert {int(p.name) for p in folder.iterdir()} == {best["step"], 30}
    description, _ = checkpoint.load(folder / "00000030" / checkpoint.BLOB)
    assert (description.step, description.epoch, description.steps_per_epoch) == (30, 10, 3)
    assert description.miou == epochs[-1]["miou"]
    assert description.run_id == description.wandb_id == "run-7"


def test_a_finished_run_called_again_does_nothing(
    learned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def contents() -> dict[Path, bytes]:
        files = (path for path in (learned / "out").rglob("*") if path.is_file())
        return {path: path.read_bytes() for path in files}

    before = contents()
    assert run_main(monkeypatch, learned) == 0
    assert contents() == before


def test_no_wandb_folder_unless_asked(learned: Path) -> None:
    assert not list(learned.rglob("*wandb*"))


# Settings


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16", "fp16"])
def test_precision(tmp_path: Path, precision: str) -> None:
    job = write_job(tmp_path / "job", precision=precision, epochs=1)
    assert train(job, run_id="run")
    (epoch,) = journal(job, "epoch")
    assert 0 < epoch["train_loss"] < 10
    said = journal(job, "start")[0]["provenance"]["precision"]
    names = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
    assert said == names.get(precision, said)


def test_a_learning_rate_of_0_leaves_the_weights_alone(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", lr=0)
    assert train(job, run_id="run")
    folder = checkpoint.newest(job / "out" / "checkpoints")
    assert folder
    _, state = checkpoint.load(folder / checkpoint.BLOB)
    fresh = TrainingState.initial(Job.open(job, "run", "auto"))
    for name, weight in fresh.net.named_parameters():
        assert torch.equal(state["net"][name], weight), name


def test_nothing_but_void_gives_a_loss_of_0(tmp_path: Path) -> None:
    void = [
        (np.full((20, 20, 3), i, np.uint8), np.full((20, 20), VOID, np.uint8)) for i in range(4)
    ]
    job = write_job(tmp_path / "job", {"train": void, "val": void})
    assert train(job, run_id="run")
    assert [record["train_loss"] for record in journal(job, "epoch")] == [0, 0]
    assert [record["miou"] for record in journal(job, "epoch")] == [0, 0]


def test_fewer_samples_than_the_batch_size(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", batch_size=64)
    assert train(job, run_id="run")
    assert steps(job) == [1, 2]


@pytest.mark.parametrize("warm_up", [0.01, 0.1, 0.25, 0.5, 0.99])
@pytest.mark.parametrize("epochs", [1, 2, 5, 10])
def test_any_length_and_warm_up_has_a_rate_for_every_step(warm_up: float, epochs: int) -> None:
    recipe = RECIPE.override({"warm_up": warm_up})
    optimiser = build_optimiser(recipe, build_net(recipe, 3))
    schedule = build_schedule(recipe, optimiser, epochs, 1)
    for step in range(epochs):
        assert 0 < float(schedule.get_last_lr()[0]) <= recipe.lr * 1.000001
        optimiser.step()
        if step + 1 < epochs:
            schedule.step()
