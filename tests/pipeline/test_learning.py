"""The dry run's gate tells learning from not learning, on three seeds."""

from pathlib import Path

import pytest
import torch

from infra.failure import Failure
from infra.stores import Store
from model.dataset import Dataset
from model.metrics import ConfusionMatrix
from model.recipes import named
from model.train import train
from pipeline.dataset import dataset_prefix
from pipeline.sample_archive import SAMPLE_CLASSES, write_sample_archive
from pipeline.stages.build_dataset import build_dataset
from pipeline.stages.extract import extract
from pipeline.stages.fetch_checkpoint import must_pass_gate
from pipeline.stages.separate import separate
from tiny import journal


@pytest.fixture(scope="module", params=(0, 1, 2))
def seed(request: pytest.FixtureRequest) -> int:
    seed: int = request.param
    return seed


@pytest.fixture(scope="module")
def dataset(seed: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset_of(tmp_path_factory.mktemp("honest"), seed)


def dataset_of(folder: Path, seed: int, *, shuffle_masks: bool = False) -> Path:
    """The dry run's archive with another seed, as a dataset on disk."""
    tar = folder / "shapes.tar"
    write_sample_archive(tar, seed=seed, shuffle_masks=shuffle_masks)
    store, spool = Store.open(str(folder / "store")), folder / "spool"
    archive, _ = extract(str(tar), store, spool)
    separation, _ = separate([archive], store, spool)
    manifest, _ = build_dataset(separation, [archive], store, spool, classes=SAMPLE_CLASSES)
    path = store.local_path(dataset_prefix(manifest.key))
    assert path
    return path


def best_miou(folder: Path, dataset: Path, **overrides: object) -> float:
    """Train the dry run's recipe until it passes, if it does; returns the best validation mIoU."""
    job = folder / "job"
    job.mkdir()
    recipe = named("tiny").override(overrides)
    (job / "recipe.json").write_text(recipe.model_dump_json())
    (job / "dataset").symlink_to(dataset)

    def best() -> float:
        return max((record["miou"] for record in journal(job, "epoch")), default=0.0)

    train(job, run_id="test", device="cpu", stop=lambda: passes(best()))
    return best()


def passes(miou: float) -> bool:
    try:
        must_pass_gate(named("tiny"), miou, "report.html")
    except Failure:
        return False
    return True


def test_honest_training_passes(seed: int, dataset: Path, tmp_path: Path) -> None:
    assert passes(best_miou(tmp_path, dataset, seed=seed))


def test_a_learning_rate_of_zero_fails(seed: int, dataset: Path, tmp_path: Path) -> None:
    assert not passes(best_miou(tmp_path, dataset, seed=seed, lr=0, epochs=1))


def test_shuffled_masks_fail(seed: int, tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, seed, shuffle_masks=True)
    assert not passes(best_miou(tmp_path, dataset, seed=seed))


def test_every_constant_prediction_fails(dataset: Path) -> None:
    val = Dataset(dataset, "val")

    for constant in range(len(SAMPLE_CLASSES)):
        confusion = ConfusionMatrix(len(SAMPLE_CLASSES))
        for position in range(len(val)):
            truth = torch.from_numpy(val[position].mask)
            confusion.update(torch.full_like(truth, constant), truth)
        assert not passes(confusion.miou())
