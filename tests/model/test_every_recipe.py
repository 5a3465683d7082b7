"""Every named recipe learns, and goes on after a stop as if it had never stopped."""

import shutil
from pathlib import Path

import pytest

from model.manifest import VOID
from model.recipes import RECIPES
from model.train import train
from narrow import narrow, still
from photos import four
from tiny import journal, labelled, steps, weights_digest, write_dataset

EPOCHS, STEPS = 2, 3


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photos to train on, of other sizes than the nets like."""
    splits = {
        "train": [labelled(i, 40 + i % 5, 45 - i % 4) for i in range(12)],
        "val": [labelled(100, 17, 26)],
    }
    folder = tmp_path_factory.mktemp("data") / "dataset"
    write_dataset(folder, splits)
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_stopped_and_resumed_equals_never_stopped(dataset: Path, tmp_path: Path, name: str) -> None:
    recipe = narrow(name, epochs=EPOCHS, multi_scale=(1, 1.5), accumulate=2, ema=0.5)
    jobs = [tmp_path / "whole", tmp_path / "fewer", tmp_path / "more"]
    for job in jobs:
        shutil.copytree(dataset, job / "dataset")
        (job / "recipe.json").write_text(recipe.model_dump_json())
    whole, fewer, more = jobs
    assert train(whole, run_id="run")
    for job, before, after in ((fewer, 2, 0), (more, 0, 2)):
        assert not train(job, run_id="run", workers=before, stop=lambda job=job: 2 in steps(job))
        assert train(job, run_id="run", workers=after)
        assert steps(job) == list(range(1, EPOCHS * STEPS + 1))
        assert weights_digest(job) == weights_digest(whole)


@pytest.mark.parametrize("name", RECIPES)
def test_four_photos_are_learned_by_heart(tmp_path: Path, name: str) -> None:
    photos = four(name)
    classes = tuple(map(str, range(1 + max(int(m[m != VOID].max()) for _, m in photos))))
    # Many steps an epoch, so that few of them are spent on scoring.
    write_dataset(tmp_path / "dataset", {"train": photos * 60, "val": photos}, classes)
    settings = {"width": 16, "epochs": 6, "lr": 5e-3, "restart_epochs": 6}
    if name == "voc-resnet-unet":  # a photo of 32 pixels is one place of its deepest level
        settings |= {"width": 32, "epochs": 8, "lr": 1e-2}
    recipe = narrow(name, **still(name), **settings)
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    assert train(tmp_path, run_id="run")
    assert max(record["miou"] for record in journal(tmp_path, "epoch")) > 0.95
