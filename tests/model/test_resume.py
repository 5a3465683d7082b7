"""The same bits: trained again, or stopped anywhere and gone on with."""

import itertools
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model import checkpoint
from model.errors import InputError
from model.job import Job
from model.state import TrainingState
from model.train import STOPPED, train
from tiny import (
    journal,
    labelled,
    start_trainer,
    steps,
    weights_digest,
    write_dataset,
    write_job,
    write_recipe,
)


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
    assert weights_digest(job) == weights_digest(reference)


def test_another_seed_gives_others(reference: Path, tmp_path: Path) -> None:
    job = copy_of(reference, tmp_path / "job")
    write_recipe(job, epochs=3, batch_size=2, seed=1)
    train(job, run_id="run")
    assert weights_digest(job) != weights_digest(reference)


def after(job: Path, step: int) -> Callable[[], bool]:
    """A `stop` that says yes from that step on."""
    return lambda: step in steps(job)


def story(job: Path) -> list[dict[str, Any]]:
    """All that training said, but for times and speeds."""
    noise = ("time", "images_per_second")
    return [{k: v for k, v in r.items() if k not in noise} for r in journal(job)]


def kept(job: Path) -> list[str]:
    return sorted(folder.name for folder in (job / "out" / "checkpoints").iterdir())


# An epoch has 6 steps; the last ones are followed by a validation.
@pytest.mark.parametrize("stops", [[1], [4, 5, 10], [6], [6, 6], [17], [18]], ids=str)
def test_stopped_and_resumed_equals_never_stopped(
    reference: Path, tmp_path: Path, stops: list[int]
) -> None:
    job = copy_of(reference, tmp_path / "job")
    for step in stops:
        assert not train(job, run_id="run", stop=after(job, step))
        folder = job / "out" / "checkpoints"
        assert checkpoint.newest(folder) == folder / f"{step:08d}"
        assert steps(job) == list(range(1, step + 1))
        torch.rand(5)
    assert train(job, run_id="run")
    assert weights_digest(job) == weights_digest(reference)
    assert story(job) == story(reference)
    assert kept(job) == kept(reference)


def test_a_stop_while_validating_is_heard_after_the_next_image(
    reference: Path, tmp_path: Path
) -> None:
    job = copy_of(reference, tmp_path / "job")
    images = itertools.count(1)

    def after_the_second_of_four() -> bool:
        return steps(job)[-1:] == [12] and next(images) == 2

    assert not train(job, run_id="run", stop=after_the_second_of_four)
    assert [record["step"] for record in journal(job, "epoch")] == [6]
    folder = checkpoint.newest(job / "out" / "checkpoints")
    assert folder
    manifest = checkpoint.verified(folder)
    assert manifest
    assert (manifest.step, manifest.miou) == (12, None)
    assert train(job, run_id="run")
    assert story(job) == story(reference)


def test_torchs_random_state_is_restored(reference: Path) -> None:
    # Dropout draws from it, as in simple-fcn.
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
    assert weights_digest(job) == weights_digest(reference)


def test_a_damaged_newest_checkpoint_is_passed_over(reference: Path, tmp_path: Path) -> None:
    job = copy_of(reference, tmp_path / "job")
    train(job, run_id="run", stop=after(job, 8))  # leaves step 6, scored, and step 8
    blob = job / "out" / "checkpoints" / "00000008" / checkpoint.BLOB
    blob.write_bytes(blob.read_bytes()[:-1])
    assert train(job, run_id="run")
    assert weights_digest(job) == weights_digest(reference)


def test_sigterm_stops_with_a_checkpoint(tmp_path: Path) -> None:
    whole = write_job(tmp_path / "whole", epochs=15, batch_size=1)
    assert train(whole, run_id="run")
    job = copy_of(whole, tmp_path / "job")
    process = start_trainer(job, "--run-id", "run", "--workers", "1")
    try:
        assert process.stdout
        assert process.stdout.readline().startswith("epoch 1/15 ")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate()
    finally:
        process.kill()
    assert process.returncode == STOPPED, err
    stopped_at = steps(job)[-1]
    assert out.splitlines()[-1] == (
        f"stopped at step {stopped_at} of 180, checkpoint written; run it again to go on"
    )
    assert err == ""
    assert train(job, run_id="run")
    assert steps(job) == list(range(1, 181))
    assert weights_digest(job) == weights_digest(whole)


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
    train(job, run_id="run", stop=after(job, 3))
    change(job)
    with pytest.raises(InputError, match=f"step 3 was made with another {what}"):
        train(job, run_id="run")
    assert steps(job) == [1, 2, 3]


def test_a_damaged_checkpoint_costs_no_good_one(reference: Path, tmp_path: Path) -> None:
    """Neither the best nor the last: what was saved after it stays."""
    job = copy_of(reference, tmp_path / "job")
    train(job, run_id="run", stop=after(job, 11))  # leaves step 6, scored, and step 11
    blob = job / "out" / "checkpoints" / "00000011" / checkpoint.BLOB
    blob.write_bytes(blob.read_bytes()[:-1])
    assert not train(job, run_id="run", stop=after(job, 8))
    assert kept(job) == ["00000006", "00000008"]
    assert train(job, run_id="run")
    assert weights_digest(job) == weights_digest(reference)


def test_what_a_replacement_left_half_done_is_found(reference: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    whole = checkpoint.newest(reference / "out" / "checkpoints")
    assert whole
    shutil.copytree(whole, folder / ".00000018.old")
    (folder / ".00000018.part").mkdir()
    (folder / ".00000018.part" / checkpoint.MANIFEST).touch()
    checkpoint.recover(folder)
    assert [path.name for path in folder.iterdir()] == ["00000018"]
    assert checkpoint.verified(folder / "00000018")
