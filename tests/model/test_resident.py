"""A split that lies on the device: the same batches whoever asks, from any step, and it learns."""

from pathlib import Path
from typing import Any

import pytest
import torch

from model.dataset import Dataset
from model.errors import InputError
from model.images import Image
from model.job import Job
from model.loader import Batch, training_batches
from model.manifest import VOID
from model.order import BatchOrder
from model.ranks import ALONE, Ranks
from model.recipe import Recipe
from model.resident import shall_be_resident
from model.train import train
from tiny import RECIPE, journal, labelled, weights_digest, write_job, write_recipe

ON_DEVICE: dict[str, Any] = {"augment_on": "device"}
PLAIN: dict[str, Any] = {"jitter": 0, "rotate": 0, "scale": (1, 1), "flip": 0}


def batches_of(
    job: Path, ranks: Ranks = ALONE, start: int = 0, **settings: Any
) -> tuple[Dataset, Recipe, list[Batch]]:
    data, recipe = Dataset(job / "dataset", "train"), write_recipe(job, **settings)
    order = BatchOrder(recipe.seed, len(data), recipe.batch_size, epochs=3)
    found = training_batches(data, recipe, order, 0, start=start, ranks=ranks)
    return data, recipe, list(found)


@pytest.mark.parametrize("fit", ["crop", "resize", "pad"])
def test_without_chance_its_batches_are_the_loaders(tmp_path: Path, fit: str) -> None:
    pairs: dict[str, list[tuple[Image, Image]]] = {
        "train": [labelled(i, 20 + (fit != "crop") * i, 20) for i in range(8)],
        "val": [labelled(9, 20, 20)],
    }
    job = write_job(tmp_path / "job", pairs)
    settings = PLAIN | {"fit": fit, "image_size": 20}
    _, _, theirs = batches_of(job, **settings)
    _, _, ours = batches_of(job, **settings, **ON_DEVICE)
    assert len(ours) == len(theirs) == 6
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine.images, other.images)
        assert torch.equal(mine.targets, other.targets)


@pytest.mark.parametrize(
    "settings",
    [{}, {"fit": "pad", "image_size": 24}, {"multi_scale": (0.5, 1, 1.5), "fit": "resize"}],
    ids=["crop", "pad", "scales"],
)
def test_they_are_the_same_from_any_step_and_shared_by_ranks(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    job = write_job(tmp_path / "job")
    _, _, whole = batches_of(job, **settings, **ON_DEVICE)
    shapes = {tuple(batch.targets.shape) for batch in whole}
    assert (len(shapes) > 1) == bool({"fit", "multi_scale"} & settings.keys())
    assert len({batch.images.numpy().tobytes() for batch in whole}) == len(whole)
    _, _, later = batches_of(job, start=4, **settings, **ON_DEVICE)
    for early, late in zip(whole[4:], later, strict=True):
        assert torch.equal(early.images, late.images)
        assert torch.equal(early.targets, late.targets)
    parts = [batches_of(job, Ranks(i, 2), **settings, **ON_DEVICE)[2] for i in range(2)]
    if settings.get("fit") != "pad":  # there each part is as large as its own largest photo
        for batch, *shares in zip(whole, *parts, strict=True):
            assert torch.equal(torch.cat([share.images for share in shares]), batch.images)
            assert torch.equal(torch.cat([share.targets for share in shares]), batch.targets)


@pytest.mark.parametrize("fit", ["crop", "resize", "pad"])
def test_its_batches_are_the_loaders_to_rounding(tmp_path: Path, fit: str) -> None:
    job = write_job(tmp_path / "job")
    settings = {"fit": fit, "scale": (0.5, 2), "rotate": 30, "jitter": 0.5}
    ours, theirs = (batches_of(job, **settings, augment_on=on)[2] for on in ("device", "loader"))
    for mine, other in zip(ours, theirs, strict=True):
        same = (mine.targets == other.targets) & (mine.targets != VOID)
        assert (mine.targets == other.targets).float().mean() > 0.95
        apart = (mine.images.float() - other.images).abs().permute(0, 2, 3, 1)[same]
        assert apart.mean() < 1.5


def test_it_trains_to_the_same_weights_where_chance_has_no_part(tmp_path: Path) -> None:
    settings = PLAIN | {"fit": "resize"}
    jobs = [
        write_job(tmp_path / where, augment_on=where, **settings) for where in ("loader", "device")
    ]
    for job in jobs:
        assert train(job, run_id="run", device="cpu")
    steps = [[record["loss"] for record in journal(job, "step")] for job in jobs]
    assert steps[0] == pytest.approx(steps[1], rel=1e-6)


def test_it_learns_and_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    whole, job = (
        write_job(tmp_path / name, epochs=12, width=8, **ON_DEVICE) for name in ("whole", "job")
    )
    assert train(whole, run_id="run", device="cpu")
    assert journal(whole, "epoch")[-1]["miou"] > 0.6
    asked = iter([False] * (7 + 12))  # at every photo, then at every step
    assert not train(job, run_id="run", device="cpu", stop=lambda: next(asked, True))
    assert train(job, run_id="run", device="cpu")
    assert weights_digest(job) == weights_digest(whole)


def test_a_broken_photo_is_named(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job")
    data = Dataset(job / "dataset", "train")
    spoilt = data.samples[3]
    with (job / "dataset" / "shards" / "00000.tar").open("r+b") as shard:
        shard.seek(spoilt.photo[0])
        shard.write(bytes(spoilt.photo[1]))
    with pytest.raises(InputError, match=spoilt.id):
        batches_of(job, **ON_DEVICE)


def test_where_it_lies_when_the_recipe_leaves_it_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Job.open(write_job(tmp_path / "job"), "run", "cpu")
    data, recipe, gpu = opened.train, opened.recipe, torch.device("cuda", 0)
    size = 4 * sum(sample.height * sample.width for sample in data.samples)
    assert shall_be_resident(data, recipe, gpu)
    assert not shall_be_resident(data, recipe, torch.device("cpu"))
    assert not shall_be_resident(data, recipe.override({"augment_on": "loader"}), gpu)
    scales = recipe.override({"multi_scale": (0.5, 1), "fit": "crop"})
    assert shall_be_resident(data, scales, gpu)
    assert not shall_be_resident(data, scales.override({"fit": "resize"}), gpu)
    monkeypatch.setattr("model.resident._MOST", size)
    assert shall_be_resident(data, recipe, gpu)
    monkeypatch.setattr("model.resident._MOST", size - 1)
    assert not shall_be_resident(data, recipe, gpu)


def test_told_to_stop_while_it_decodes_it_stops(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", **ON_DEVICE)
    asked: list[int] = []

    def told() -> bool:
        asked.append(1)
        return len(asked) == 5

    assert not train(job, run_id="run", device="cpu", stop=told)
    assert len(asked) == 5
    assert not journal(job, "step")
    assert train(job, run_id="run", device="cpu")


def test_what_is_streamed_cannot_lie_there() -> None:
    with pytest.raises(InputError, match="wants all photos at once"):
        RECIPE.override({"stream_gb": 1, **ON_DEVICE})
