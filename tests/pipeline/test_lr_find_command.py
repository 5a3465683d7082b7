"""`voc-train lr-find`: the first three stages, a range test, a plot."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from commands import VocTrain
from devkit import devkit
from infra.failure import Cause, Failure
from model.device import default_threads
from model.errors import InputError
from model.lr_find import LearningRates
from pipeline.learning_rate import find_lr_on_archives
from pipeline.parameters import Parameters


@pytest.fixture
def threads() -> Iterator[None]:
    """Those who find a rate choose how many threads compute; the next test has as many as ever."""
    before = torch.get_num_threads()
    torch.set_num_threads(default_threads() + 1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_lr_find(tmp_path: Path, voc_train: VocTrain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    archive, out = devkit(tmp_path / "voc.tar"), tmp_path / "plots" / "rates.png"
    options = ["--recipe", "tiny", "--set", "width=2", "--set", "depth=1", "--set", "batch_size=2"]
    options += ["--set", "image_size=16", "--device", "cpu", "--workers", "0", "--steps", "20"]
    done = voc_train("lr-find", "--archive", archive, *options, "--out", out, "--json")
    assert done.code == 0, done.err
    (line,) = done.out.splitlines()
    said = json.loads(line)
    assert said["plot"] == str(out)
    assert said["rates"] == pytest.approx(np.geomspace(1e-7, 1, 20)[: len(said["rates"])].tolist())
    # What is printed is all that the suggestion comes from.
    found = LearningRates.of(said["rates"], said["losses"], said["diverged"])
    assert (found.steepest, found.tenth_of_minimum) == (said["steepest"], said["tenth_of_minimum"])
    stages = [line.split()[0] for line in done.err.splitlines() if " done in " in line]
    assert stages == ["extract", "separate", "build-dataset", "lr-find"]
    assert PIL.Image.open(out).size == (1200, 750)


def find(archive: Path | str, folder: Path, steps: int = 20, **overrides: Any) -> LearningRates:
    settings = {"width": 2, "depth": 1, "batch_size": 2, "image_size": 16} | overrides
    parameters = Parameters(
        archives=(str(archive),),
        store=str(folder / "store"),
        device="cpu",
        workers=0,
        recipe="tiny",
        overrides=settings,
    )
    return find_lr_on_archives(
        parameters, [], low=1e-7, high=1.0, steps=steps, plot=folder / "rates.png"
    )


@pytest.mark.usefixtures("threads")
def test_it_computes_with_as_many_threads_as_training_does(tmp_path: Path) -> None:
    find(devkit(tmp_path / "voc.tar"), tmp_path)
    assert torch.get_num_threads() == default_threads()


@pytest.mark.usefixtures("threads")
def test_too_little_memory_is_a_failure_with_its_cause_and_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = devkit(tmp_path / "voc.tar")
    monkeypatch.setattr("model.job.build_loss", lambda *_: lambda *_: torch.empty(1 << 50).sum())
    with pytest.raises(Failure, match=r"too small for 2 images.*accumulate=2") as failed:
        find(archive, tmp_path)
    assert failed.value.cause is Cause.OUT_OF_MEMORY
    monkeypatch.setattr("model.job.build_loss", lambda *_: lambda *_: [].pop())
    with pytest.raises(IndexError):  # whoever asks with --debug sees where it comes from
        find(archive, tmp_path)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"batch_size": 1, "image_size": 8, "depth": 3}, "shrinks to 1x1"),
        ({"encoder": "resnet18"}, "has no encoder"),
        ({"steps": 5}, "range test"),
    ],
)
def test_what_cannot_be_trained_is_said_before_anything_is_prepared(
    tmp_path: Path, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        find(devkit(tmp_path / "voc.tar"), tmp_path, **wrong)
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
