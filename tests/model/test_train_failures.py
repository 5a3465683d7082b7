"""Training that goes wrong: a cause, a sentence, an exit code, and nothing half done."""

import io
import json
import multiprocessing
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from model import checkpoint, failures
from model.errors import InputError, TrainingError
from model.job import alone_in
from model.journal import Journal
from model.saver import Saver
from small_disk import Disk
from tiny import run_main, write_job


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


@pytest.mark.parametrize(
    ("settings", "cure"),
    [
        ({}, "4 images of 16 pixels, 4 at a time.*accumulate=2.*batch_size=2.*image_size"),
        ({"accumulate": 4}, "one at a time.*smaller --set image_size"),
    ],
    ids=["whole", "in parts"],
)
def test_too_little_memory_names_the_batch_and_the_cure(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    cure: str,
) -> None:
    job = write_job(tmp_path / "job", **settings)
    monkeypatch.setattr("model.job.build_loss", lambda *_: lambda *_: torch.empty(1 << 50).sum())
    assert run_main(monkeypatch, job) == 1
    said = failure(job)
    assert said["cause"] == "OUT_OF_MEMORY"
    assert re.search(cure, said["message"])
    assert capsys.readouterr().err.strip() == said["message"]


def test_a_loader_that_is_killed_is_named_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tmp_path / "job", epochs=500, batch_size=1)
    save = Saver.save

    def kill_loaders(*arguments: Any) -> None:
        save(*arguments)
        for child in multiprocessing.active_children():  # no other, such as a server of the session
            child.kill()

    monkeypatch.setattr(Saver, "save", kill_loaders)
    assert run_main(monkeypatch, job, "--workers", "1") == 1
    said = failure(job)
    assert said["cause"] == "OUT_OF_MEMORY"
    assert "A loader process was killed" in said["message"]
    assert "--workers 1" in said["message"]
    assert checkpoint.newest(job / "out" / "checkpoints")  # what was learned is not lost


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


def fill(folder: Path) -> None:
    with (folder / "filling").open("wb", 0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


@pytest.mark.parametrize("kind", ["epoch", "checkpoint"])
def test_a_disk_that_fills_up_is_named_with_the_cure(
    disk: Disk,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    """When the journal is written, and when a checkpoint is."""
    job = write_job(disk.folder / "job", epochs=2, batch_size=1, width=8)
    save, write = checkpoint.save, Journal.write

    def save_on_a_full_disk(*args: Any) -> checkpoint.CheckpointManifest:
        if kind == "checkpoint":
            fill(disk.folder)
        return save(*args)

    def write_on_a_full_disk(journal: Journal, said: str, step: int, **values: Any) -> None:
        if kind == said:
            fill(disk.folder)
            values["note"] = "x" * 4096  # so that it needs room
        write(journal, said, step, **values)

    monkeypatch.setattr(checkpoint, "save", save_on_a_full_disk)
    monkeypatch.setattr(Journal, "write", write_on_a_full_disk)
    assert run_main(monkeypatch, job) == 1
    said = failure(job)
    assert said["cause"] == "STORE"
    assert said["message"].startswith(f"The disk of {job / 'out'}")
    assert "is full; free some space there" in said["message"]
    assert capsys.readouterr().err.strip() == said["message"]

    monkeypatch.undo()
    (disk.folder / "filling").unlink()
    assert run_main(monkeypatch, job) == 0
    assert checkpoint.newest(job / "out" / "checkpoints")


def test_a_read_only_disk_is_named_even_if_nothing_can_be_left_there(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(disk.folder / "job")
    assert run_main(monkeypatch, job, "--device", "nonsense") == 2  # leaves a file to be removed
    capsys.readouterr()
    disk.remount("ro")
    assert run_main(monkeypatch, job) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"The disk of {job / 'out'} is read-only; make it writable")


def test_the_cause_is_left_where_the_log_takes_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write_job(tmp_path / "job", epochs=1)
    with Path("/dev/full").open("wb", 0) as full:
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(full, write_through=True))
        assert run_main(monkeypatch, job, "--device", "nonsense") == 2
    assert failure(job)["cause"] == "BAD_INPUT"


def break_the_loss(
    monkeypatch: pytest.MonkeyPatch, first: Callable[[], object] = lambda: None
) -> None:
    def broken(*_: object, **__: object) -> None:
        first()
        raise ZeroDivisionError("of the loss.\nAnd more.")

    monkeypatch.setattr("model.job.build_loss", broken)


def test_what_nobody_foresaw_is_a_sentence_and_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tmp_path / "job", epochs=1)
    with monkeypatch.context() as patch:
        break_the_loss(patch)
        assert run_main(patch, job) == 1
    said = failure(job)
    assert said["cause"] == "INTERNAL"
    assert "ZeroDivisionError: of the loss; traceback.txt" in said["message"]
    assert capsys.readouterr().err.splitlines() == [said["message"]]
    kept = (job / "out" / "traceback.txt").read_text()
    assert kept.startswith("Traceback")
    assert "in broken" in kept

    assert run_main(monkeypatch, job) == 0
    assert not (job / "out" / "traceback.txt").exists()


def test_a_traceback_that_cannot_be_kept_is_in_the_log(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(disk.folder / "job", epochs=1)
    break_the_loss(monkeypatch, lambda: disk.remount("ro"))
    assert run_main(monkeypatch, job) == 1
    begin, *between, last = capsys.readouterr().err.splitlines()
    assert begin.startswith("Traceback")
    assert any("in broken" in line for line in between)
    assert "ZeroDivisionError: of the loss; what is above says where" in last


def test_of_several_the_word_of_the_first_is_kept(tmp_path: Path) -> None:
    """The others may fail for want of it."""
    job = write_job(tmp_path / "job")
    assert failures.leave(job, TrainingError("USER_ERROR", "The first.")) == 1
    assert failures.leave(job, InputError("Another.")) == 2
    assert failure(job) == {"cause": "USER_ERROR", "message": "The first."}


def test_a_folder_that_is_not_there_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_main(monkeypatch, tmp_path / "nowhere") == 2
    assert not (tmp_path / "nowhere").exists()


def test_a_photo_that_shrinks_to_one_value_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"fit": "pad", "batch_size": 1, "rotate": 0, "scale": (0.1, 0.1)}
    job = write_job(tmp_path / "job", depth=3, **settings)
    assert run_main(monkeypatch, job) == 2
    assert "shrinks it to 1x1" in failure(job)["message"]


def test_too_little_memory_to_predict_names_the_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy(*_: object) -> torch.Tensor:
        return torch.empty(1 << 50)

    monkeypatch.setattr("model.inference.Predictor.logits", greedy)
    job = write_job(tmp_path / "job")
    assert run_main(monkeypatch, job) == 1
    assert failure(job)["cause"] == "OUT_OF_MEMORY"
    assert re.search(r"predict val_000, 26x17 pixels.*--max-side", failure(job)["message"])


def test_two_trainers_of_one_job_do_not_mix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tmp_path / "job", epochs=1)
    with alone_in(job):
        assert run_main(monkeypatch, job) == 2
    assert "is being trained by another process" in capsys.readouterr().err
    assert run_main(monkeypatch, job) == 0
