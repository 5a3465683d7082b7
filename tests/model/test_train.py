"""Training: it learns, it repeats to the bit, it stops and goes on, and it fails in words."""

import itertools
import json
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model import checkpoint
from model.dataset import VOID
from model.errors import InputError
from model.job import Job
from model.nets import build_net
from model.optim import build_optimiser, build_schedule
from model.state import TrainingState
from model.train import STOPPED, main, train
from tiny import RECIPE, journal, labelled, start_trainer, write_dataset, write_job, write_recipe


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def digest(job: Path) -> str:
    """The weights digest of the newest checkpoint."""
    folder = checkpoint.newest(job / "out" / "checkpoints")
    assert folder
    manifest = checkpoint.verified(folder)
    assert manifest
    return manifest.weights_digest


def steps(job: Path) -> list[int]:
    return [record["step"] for record in journal(job, "step")]


def after(calls: int) -> Callable[[], bool]:
    """A `stop` that says yes at the given call: one a step."""
    count = itertools.count(1)
    return lambda: next(count) >= calls


def run_main(monkeypatch: pytest.MonkeyPatch, job: Path, *options: str) -> int:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setattr(sys, "argv", ["model.train", str(job), "--threads", "1", *options])
    try:
        return main()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
    assert len(epochs) == 10
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
    digests = {
        record["step"]: record["weights_digest"] for record in journal(learned, "checkpoint")
    }
    assert digests[30] == digest(learned)


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


# The same bits


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted training: 3 epochs of 6 steps."""
    job = write_job(tmp_path_factory.mktemp("reference") / "job", epochs=3, batch_size=2)
    assert train(job, run_id="run")
    return job


def copy_of(reference: Path, to: Path) -> Path:
    return Path(shutil.copytree(reference, to, ignore=shutil.ignore_patterns("out")))


@pytest.mark.parametrize("workers", [0, 2])
def test_again_gives_the_same_weights(reference: Path, tmp_path: Path, workers: int) -> None:
    job = copy_of(reference, tmp_path / "job")
    torch.rand(3)  # what was drawn before must not matter
    assert train(job, run_id="another", workers=workers)
    assert digest(job) == digest(reference)


def test_another_seed_gives_others(reference: Path, tmp_path: Path) -> None:
    job = copy_of(reference, tmp_path / "job")
    write_recipe(job, epochs=3, batch_size=2, seed=1)
    train(job, run_id="run")
    assert digest(job) != digest(reference)


@pytest.mark.parametrize("stops", [[1], [4, 1, 5], [6], [17]], ids=str)
def test_stopped_and_resumed_equals_never_stopped(
    reference: Path, tmp_path: Path, stops: list[int]
) -> None:
    job = copy_of(reference, tmp_path / "job")
    for count in stops:
        assert not train(job, run_id="run", stop=after(count))
        torch.rand(5)
    folder = job / "out" / "checkpoints"
    assert checkpoint.newest(folder) == folder / f"{sum(stops):08d}"
    assert steps(job) == list(range(1, sum(stops) + 1))
    assert train(job, run_id="run")
    assert digest(job) == digest(reference)

    def story(job: Path) -> list[dict[str, Any]]:
        noise = ("time", "images_per_second")
        return [{k: v for k, v in r.items() if k not in noise} for r in journal(job)]

    assert story(job) == story(reference)


def test_torchs_random_state_is_restored(reference: Path) -> None:
    # Today's net draws nothing while it trains; one with dropout would.
    state = TrainingState.initial(Job.open(reference, "run", "cpu"))
    torch.rand(3)
    saved = state.state_dict()
    wanted = torch.rand(4)
    state.load_state_dict(saved)
    assert torch.equal(torch.rand(4), wanted)


def test_a_kill_without_warning_costs_only_what_came_after_the_checkpoint(
    reference: Path, tmp_path: Path
) -> None:
    job = copy_of(reference, tmp_path / "job")

    def killed() -> bool:
        if steps(job)[-1:] == [9]:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        train(job, run_id="run", stop=killed)
    assert train(job, run_id="run")
    assert steps(job) == list(range(1, 19))
    assert digest(job) == digest(reference)


def test_a_damaged_newest_checkpoint_is_passed_over(reference: Path, tmp_path: Path) -> None:
    job = copy_of(reference, tmp_path / "job")
    train(job, run_id="run", stop=after(8))  # leaves step 6, scored, and step 8
    blob = job / "out" / "checkpoints" / "00000008" / checkpoint.BLOB
    blob.write_bytes(blob.read_bytes()[:-1])
    assert train(job, run_id="run")
    assert digest(job) == digest(reference)


def test_sigterm_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    whole = write_job(tmp_path / "whole", epochs=15, batch_size=1)
    assert train(whole, run_id="run")
    job = copy_of(whole, tmp_path / "job")
    process = start_trainer(job, "--run-id", "run", "--workers", "1")
    try:
        journal_file = job / "out" / "metrics.jsonl"
        while process.poll() is None:  # the suite's own time limit is the limit
            if journal_file.exists() and journal_file.read_text().count('"kind": "step"') >= 5:
                process.send_signal(signal.SIGTERM)
                break
            time.sleep(0.01)
        out, err = process.communicate()
    finally:
        process.kill()
    assert process.returncode == STOPPED, err
    stopped_at = steps(job)[-1]
    assert out.splitlines()[-1] == f"stopped at step {stopped_at} of 180, checkpoint written"
    assert err == ""
    assert train(job, run_id="run")
    assert steps(job) == list(range(1, 181))
    assert digest(job) == digest(whole)


def replace_dataset(folder: Path) -> None:
    shutil.rmtree(folder)
    train_split, val_split = [labelled(i, 20, 20) for i in range(12)], [labelled(1, 9, 9)]
    write_dataset(folder, {"train": train_split, "val": val_split})


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda job: write_recipe(job, epochs=3, batch_size=2, lr=0.01), "recipe"),
        (lambda job: replace_dataset(job / "dataset"), "dataset"),
    ],
    ids=["recipe", "dataset"],
)
def test_going_on_with_something_else_is_refused(
    reference: Path, tmp_path: Path, change: Callable[[Path], object], what: str
) -> None:
    job = copy_of(reference, tmp_path / "job")
    train(job, run_id="run", stop=after(3))
    change(job)
    with pytest.raises(InputError, match=f"step 3 was made with another {what}"):
        train(job, run_id="run")
    assert steps(job) == [1, 2, 3]


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
    schedule = build_schedule(recipe, optimiser, epochs)
    for step in range(epochs):
        assert 0 < float(schedule.get_last_lr()[0]) <= recipe.lr * 1.000001
        optimiser.step()
        if step + 1 < epochs:
            schedule.step()


# Failures, and the command line


def failure(job: Path) -> dict[str, str]:
    said: dict[str, str] = json.loads((job / "out" / "failure.json").read_bytes())
    return said


def test_a_loss_that_is_no_number_fails_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tmp_path / "job", lr=10)
    monkeypatch.setattr(
        "model.job.build_loss",
        lambda *_, **__: lambda logits, target: logits.float().sum() * float("nan"),
    )
    assert run_main(monkeypatch, job) == 1
    said = failure(job)
    assert said["cause"] == "USER_ERROR"
    assert "The loss is nan at step 1" in said["message"]
    assert "(--set lr=1)" in said["message"]
    assert capsys.readouterr().err.strip() == said["message"]
    assert not list((job / "out").glob("checkpoints/*"))


def test_a_failure_is_forgotten_when_the_next_attempt_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write_job(tmp_path / "job", epochs=1)
    assert run_main(monkeypatch, job, "--device", "nonsense") == 2
    assert failure(job)["cause"] == "BAD_INPUT"
    assert run_main(monkeypatch, job) == 0
    assert not (job / "out" / "failure.json").exists()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda job: (job / "recipe.json").unlink(), "recipe.json"),
        (lambda job: (job / "recipe.json").write_text('{"name": "x", "wide": 3}'), "recipe.json"),
        (lambda job: (job / "recipe.json").write_text("{"), "recipe.json"),
        (lambda job: shutil.rmtree(job / "dataset"), "manifest.json"),
        (lambda job: (job / "dataset" / "index.jsonl").write_text("{}\n"), "damaged"),
        (lambda job: (job / "dataset" / "shards" / "00000.tar").write_bytes(b""), "00000.tar"),
    ],
    ids=["no recipe", "unknown setting", "no json", "no dataset", "bad index", "empty shard"],
)
def test_wrong_input_is_2_and_a_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], object],
    said: str,
) -> None:
    job = write_job(tmp_path / "job", epochs=1)
    spoil(job)
    assert run_main(monkeypatch, job) == 2
    assert failure(job)["cause"] == "BAD_INPUT"
    message = failure(job)["message"]
    assert said in message
    assert capsys.readouterr().err.strip() == message


def test_a_folder_that_is_not_there_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_main(monkeypatch, tmp_path / "nowhere") == 2
    assert not (tmp_path / "nowhere").exists()
