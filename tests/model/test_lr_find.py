"""The range test: which rates are tried, what is suggested, and when it ends."""

import json
import math
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

from model.dataset import Dataset, Labelled
from model.errors import InputError
from model.job import Job
from model.loader import training_batches
from model.lr_find import find_lr, main, moving_average, plot
from model.manifest import VOID
from model.state import TrainingState
from model.train import training_step
from tiny import labelled, write_job


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job.open(write_job(tmp_path / "job", epochs=1), "run", "cpu")


def test_rates_rise_exponentially_whatever_the_recipes_schedule_and_length(job: Job) -> None:
    assert job.order.total_steps == 3
    heard: list[tuple[int, int]] = []
    found = find_lr(
        job, low=1e-6, high=1e-2, steps=41, report=lambda now, all_, _: heard.append((now, all_))
    )
    np.testing.assert_allclose(found.rates, np.geomspace(1e-6, 1e-2, 41), rtol=1e-6)
    assert len(found.losses) == len(found.smoothed) == 41
    assert not found.diverged
    assert heard == [(i, 41) for i in range(1, 42)]


def test_it_begins_with_the_first_weights_and_leaves_nothing(job: Job) -> None:
    before = sorted(job.out.parent.rglob("*"))
    first = find_lr(job, steps=20)
    torch.manual_seed(123)
    assert find_lr(job, steps=20) == first
    assert sorted(job.out.parent.rglob("*")) == before
    batch = next(training_batches(job.train, job.recipe, job.order, 0))
    fresh = TrainingState.initial(job)
    fresh.net.train()
    assert first.losses[0] == float(training_step(job, fresh, batch))


def test_no_photo_is_decoded_that_nobody_trains_on(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = 0
    read = Dataset.__getitem__

    def counted(data: Dataset, position: int) -> Labelled:
        nonlocal decoded
        decoded += 1
        return read(data, position)

    monkeypatch.setattr(Dataset, "__getitem__", counted)
    monkeypatch.setattr("model.loader.free_memory", lambda: 0)  # none is kept: all are counted
    find_lr(job, steps=20)
    assert decoded == 20 * job.recipe.batch_size


def test_rates_reach_the_weights(job: Job) -> None:
    """With rates near 0 nothing is learned, with good ones the loss falls."""
    nothing = find_lr(job, low=1e-12, high=1e-11, steps=60)
    learned = find_lr(job, low=1e-3, high=5e-2, steps=60)
    assert nothing.smoothed[-1] > 0.9 * nothing.smoothed[5]
    assert learned.smoothed[-1] < 0.7 * learned.smoothed[5]


def test_a_batch_of_nothing_but_void_says_nothing(tmp_path: Path) -> None:
    """Its loss of 0 is no least one, beside which every other loss has grown."""
    photos = [labelled(i, 20, 20) for i in range(8)]
    void = [(photo, np.full_like(mask, VOID)) for photo, mask in photos]
    splits = {"train": photos[:4] + void, "val": photos}
    folder = write_job(tmp_path / "job", splits, batch_size=1)
    found = find_lr(Job.open(folder, "run", "cpu"), low=1e-6, high=1e-4, steps=60)
    assert not found.diverged
    assert len(found.rates) == len(found.losses) == 60 // 3
    assert min(found.losses) > 0
    np.testing.assert_allclose(found.rates, np.geomspace(1e-6, 1e-4, 60)[: 60 // 3], rtol=1e-6)


def test_it_ends_when_the_loss_grows(tmp_path: Path) -> None:
    folder = write_job(
        tmp_path / "job", optimiser="sgd", clip="none", loss="cross_entropy", precision="fp32"
    )
    found = find_lr(Job.open(folder, "run", "cpu"), low=1e-3, high=1000, steps=60)
    assert found.diverged
    assert len(found.losses) < 60
    assert all(map(math.isfinite, found.losses))
    averages = [moving_average(list(found.losses[:end])) for end in range(1, len(found.losses) + 1)]
    assert max(averages) <= 4 * min(averages)
    assert found.steepest < found.rates[-1]


def test_the_average_is_not_drawn_to_zero() -> None:
    assert moving_average([2.0] * 5) == pytest.approx(2.0)
    assert moving_average([1.0]) == pytest.approx(1.0)
    assert moving_average([1.0, 2.0]) == pytest.approx((0.8 * 1 + 2) / 1.8)


@pytest.mark.parametrize("wrong", [{"low": 0.0}, {"low": 1.0}, {"steps": 19}, {"high": math.inf}])
def test_a_range_that_is_none(job: Job, wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="range test"):
        find_lr(job, **wrong)  # type: ignore[arg-type]


def test_the_plot_says_what_it_shows(job: Job) -> None:
    found = find_lr(job, steps=30, low=1e-4)
    assert found.clear
    (axes,) = plot(found, "a recipe").axes
    assert (axes.get_xscale(), axes.get_xlabel()) == ("log", "learning rate")
    assert (axes.get_ylabel(), axes.get_title()) == ("training loss", "a recipe")
    legend = axes.get_legend()
    assert legend
    said = [text.get_text() for text in legend.get_texts()]
    assert f"steepest descent: {found.steepest:.1e}" in said
    assert f"first minimum / 10: {found.tenth_of_minimum:.1e}" in said


def test_too_little_memory_is_a_sentence_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("model.job.build_loss", lambda *_: lambda *_: torch.empty(1 << 50).sum())
    assert run_main(monkeypatch, write_job(tmp_path / "job"), "--workers", "0") == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert "memory is too small for 4 images of 16 pixels" in said
    assert "--set accumulate=2" in said


def test_a_loader_that_is_killed_is_a_sentence_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def kill_loaders(*arguments: Any) -> Tensor:
        for child in multiprocessing.active_children():  # no other, such as a server of the session
            assert child.pid
            child.kill()
            # Here PyTorch hears of it, and raises; what has ended stays there for it to see.
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        return training_step(*arguments)

    monkeypatch.setattr("model.lr_find.training_step", kill_loaders)
    job = write_job(tmp_path / "job", batch_size=1)
    assert run_main(monkeypatch, job, "--workers", "1", "--steps", "500") == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert "A loader process was killed" in said


def run_main(monkeypatch: pytest.MonkeyPatch, job: Path, *options: str) -> int:
    monkeypatch.setattr(sys, "argv", ["model.lr_find", str(job), *options])
    threads = torch.get_num_threads()
    try:
        return main()
    finally:
        torch.set_num_threads(threads)


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = write_job(tmp_path / "job"), tmp_path / "a" / "plot.png"
    options = ["--steps", "20", "--workers", "0", "--out", str(out), "--json"]
    assert run_main(monkeypatch, folder, *options) == 0
    assert len(json.loads(capsys.readouterr().out)["rates"]) == 20
    assert PIL.Image.open(out).size == (1200, 750)
    assert run_main(monkeypatch, tmp_path / "nowhere") == 2
    assert "nowhere" in capsys.readouterr().err
