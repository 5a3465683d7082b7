"""Batches: bit-equal whatever the number of workers, and clear words when a photo is broken."""

from pathlib import Path

import pytest
import torch

from model.dataset import Dataset, Labelled
from model.errors import InputError
from model.loader import Batch, normalise, training_batches
from model.manifest import VOID
from model.order import BatchOrder
from tiny import RECIPE, write_dataset


def batches(folder: Path, workers: int, *, start: int = 0, **settings: object) -> list[Batch]:
    recipe = RECIPE.override(settings)
    data = Dataset(folder, "train")
    order = BatchOrder(recipe.seed, len(data), recipe.batch_size, recipe.epochs)
    return list(training_batches(data, recipe, order, workers, start=start))


def equal(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(one.images, two.images) and torch.equal(one.targets, two.targets)
        for one, two in zip(left, right, strict=True)
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "dataset"
    write_dataset(folder)
    return folder


def test_shapes(dataset: Path) -> None:
    found = batches(dataset, 0)
    assert len(found) == 6
    for images, targets in found:
        assert images.shape == (4, 3, 16, 16)
        assert targets.shape == (4, 16, 16)
        assert images.dtype == targets.dtype == torch.uint8


def test_workers_change_nothing(dataset: Path) -> None:
    assert equal(batches(dataset, 0), batches(dataset, 2))


@pytest.mark.parametrize("fit", ["crop", "resize"])
def test_what_is_kept_in_memory_changes_nothing(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, fit: str
) -> None:
    settings = {"multi_scale": (0.5, 1), "fit": fit, "epochs": 4}
    kept = batches(dataset, 2, **settings)
    monkeypatch.setattr("model.loader.free_memory", lambda: 0)
    assert equal(batches(dataset, 2, **settings), kept)


@pytest.mark.parametrize(("room", "decoded"), [(10**7, 12), (0, 36)])
def test_a_photo_is_decoded_once_for_all_sizes_of_its_crops(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, room: int, decoded: int
) -> None:
    positions: list[int] = []
    read = Dataset.__getitem__

    def counted(data: Dataset, position: int) -> Labelled:
        positions.append(position)
        return read(data, position)

    monkeypatch.setattr(Dataset, "__getitem__", counted)
    monkeypatch.setattr("model.loader.free_memory", lambda: room)
    batches(dataset, 0, multi_scale=(0.5, 1), epochs=3)
    assert len(positions) == decoded


def test_seed_and_epoch_change_everything(dataset: Path) -> None:
    first, other = batches(dataset, 0), batches(dataset, 0, seed=1)
    assert not equal(first, other)
    assert not equal(first[:3], first[3:])


def test_a_late_start_gives_the_same_batches(dataset: Path) -> None:
    assert equal(batches(dataset, 0, start=4), batches(dataset, 0)[4:])


def test_torchs_random_state_is_left_alone(dataset: Path) -> None:
    before = torch.get_rng_state()
    batches(dataset, 0)
    batches(dataset, 1)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_photo_is_named_in_a_sentence(tmp_path: Path, workers: int) -> None:
    write_dataset(tmp_path / "d")
    broken = Dataset(tmp_path / "d", "train").samples[5]
    with (tmp_path / "d" / "shards" / "00000.tar").open("r+b") as shard:
        shard.seek(broken.photo[0])
        shard.write(bytes(broken.photo[1]))
    with pytest.raises(InputError) as caught:
        batches(tmp_path / "d", workers)
    assert str(caught.value) == "The photo of train_005 cannot be decoded; the file is damaged."


def test_photos_of_different_size_share_a_batch(dataset: Path) -> None:
    whole = batches(dataset, 0, fit="pad", rotate=0, scale=(1, 1), image_size=64)
    assert {tuple(batch.targets.shape[1:]) for batch in whole} != {(16, 16)}
    sizes = [s for b in whole for s in sorted(int((t != VOID).any(1).sum()) for t in b.targets)]
    assert len(set(sizes)) > 2
    assert equal(whole, batches(dataset, 2, fit="pad", rotate=0, scale=(1, 1), image_size=64))


def test_multi_scale_draws_one_size_a_batch_whatever_the_workers(dataset: Path) -> None:
    settings = {"multi_scale": (0.5, 1, 1.5), "epochs": 10}
    found = batches(dataset, 0, **settings)
    sides = [batch.targets.shape[1] for batch in found]
    assert {side: batch.images.shape[2:] for side, batch in zip(sides, found, strict=True)} == {
        8: (8, 8), 16: (16, 16), 24: (24, 24)
    }  # fmt: skip
    assert sides[:15] != sides[15:]
    assert equal(found[7:], batches(dataset, 2, start=7, **settings))


def test_per_image_standardisation() -> None:
    images = torch.randint(0, 256, (2, 3, 8, 9), dtype=torch.uint8)
    images[1] //= 8
    done = normalise(images, "per-image")
    for image, own in zip(images.double(), done.double(), strict=True):
        wanted = (image - image.mean()) / image.std(correction=0)
        torch.testing.assert_close(own, wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(normalise(torch.full((1, 3, 2, 2), 9), "per-image"), torch.zeros(1, 3, 2, 2))


def test_normalise_uses_imagenets_figures() -> None:
    images = torch.tensor([[255 * 0.485, 255 * 0.456, 255 * 0.406], [255.0, 0.0, 255.0]])
    done = normalise(images.view(2, 3, 1, 1).expand(2, 3, 4, 5), "imagenet").to(torch.float64)
    assert done.shape == (2, 3, 4, 5)
    torch.testing.assert_close(
        done[0], torch.zeros(3, 4, 5, dtype=torch.float64), atol=1e-6, rtol=0
    )
    wanted = [(1 - 0.485) / 0.229, -0.456 / 0.224, (1 - 0.406) / 0.225]
    assert done[1, :, 0, 0].tolist() == pytest.approx(wanted, abs=1e-5)
