"""What a kill or a full disk leaves is gone on from, to the weights of a run without them."""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from model import checkpoint
from model.job import Job
from model.saver import Saver
from model.state import TrainingState
from model.train import train
from small_disk import Disk
from tiny import journal, run_main, start_trainer, steps, weights_digest, write_job


def test_killed_at_once_and_gone_on_with(tmp_path: Path) -> None:
    whole = write_job(tmp_path / "whole", epochs=40, batch_size=1)
    assert train(whole, run_id="run")
    job = tmp_path / "job"
    shutil.copytree(whole, job, ignore=shutil.ignore_patterns("out"))
    for _ in range(2):
        process = start_trainer(job, "--run-id", "run", "--workers", "2", "--save-every", "0")
        try:
            assert process.stdout
            for line in process.stdout:  # one epoch of this attempt is done
                if line.startswith("epoch"):
                    break
        finally:
            process.kill()
            process.wait()
        assert checkpoint.newest(job / "out" / "checkpoints")
        assert 12 <= steps(job)[-1] < 480
    assert train(job, run_id="run")
    assert steps(job) == list(range(1, 481))
    assert weights_digest(job) == weights_digest(whole)


def test_after_a_full_disk(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write_job(tmp_path / "whole", epochs=6)
    assert train(whole, run_id="run")
    job = disk.folder / "job"
    shutil.copytree(whole, job, ignore=shutil.ignore_patterns("out"))
    save = Saver.save

    def fill_before_the_third(saver: Saver, description: Any, state: Any) -> None:
        if description.step == 9:
            saver.wait()
            with (disk.folder / "filling").open("wb", 0) as file, suppress(OSError):
                while True:
                    file.write(bytes(4096))
        save(saver, description, state)

    with monkeypatch.context() as patch:
        patch.setattr(Saver, "save", fill_before_the_third)
        assert run_main(patch, job, "--run-id", "run", "--workers", "0") == 1
    newest = checkpoint.newest(job / "out" / "checkpoints")
    assert newest
    assert newest.name == "00000006"
    (disk.folder / "filling").unlink()
    assert train(job, run_id="run")
    assert weights_digest(job) == weights_digest(whole)
    assert [record["epoch"] for record in journal(job, "epoch")] == list(range(1, 7))


def test_a_run_that_needed_no_scaling_goes_on_where_it_is_needed(tmp_path: Path) -> None:
    """As one that began in bf16 does on a card that has only fp16."""
    job = write_job(tmp_path / "job", precision="fp32")
    saved = TrainingState.initial(Job.open(job, "run", "cpu")).state_dict()
    write_job(tmp_path / "other", precision="fp16")
    state = TrainingState.initial(Job.open(tmp_path / "other", "run", "cpu"))
    assert state.scaler.is_enabled()
    state.load_state_dict(saved)
    assert state.scaler.get_scale() > 1
    assert torch.equal(state.net.state_dict()["head.weight"], saved["net"]["head.weight"])


@pytest.mark.parametrize("clip", [1.0, None])
def test_scaled_gradients_learn_like_plain_ones(tmp_path: Path, clip: float | None) -> None:
    """fp16 on a CPU is slow, but the same path as on a GPU."""
    losses = {}
    for precision in ("fp32", "fp16"):
        job = write_job(tmp_path / precision, precision=precision, clip=clip, epochs=4)
        assert train(job, run_id="run")
        losses[precision] = [record["train_loss"] for record in journal(job, "epoch")]
    assert losses["fp16"] == pytest.approx(losses["fp32"], rel=0.1)
    assert losses["fp16"] != losses["fp32"]
