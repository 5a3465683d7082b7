"""A built dataset: read as it was written, refused when it is not whole."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from model.dataset import Dataset
from model.errors import InputError
from tiny import labelled, write_dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "dataset")
    return tmp_path / "dataset"


def test_samples_come_back_as_they_were(folder: Path) -> None:
    for split, first, count in (("train", 0, 12), ("val", 100, 4)):
        data = Dataset(folder, split)
        assert len(data) == count == data.manifest.counts[split]
        for position, sample in enumerate(data.samples):
            photo, mask = labelled(first + position, sample.height, sample.width)
            found = data[position]
            assert found.id == f"{split}_{position:03d}"
            np.testing.assert_array_equal(found.photo, photo)
            np.testing.assert_array_equal(found.mask, mask)


def test_a_photo_of_another_size_than_the_index_says_is_refused(folder: Path) -> None:
    data = Dataset(folder, "val")
    data.samples[2] = data.samples[2].model_copy(update={"width": 25})
    with pytest.raises(InputError, match="val_002 is not of the size"):
        data[2]


def test_it_travels_to_spawned_workers(folder: Path) -> None:
    data = Dataset(folder, "val")
    copy = pickle.loads(pickle.dumps(data))
    np.testing.assert_array_equal(copy[3].photo, data[3].photo)


@pytest.mark.parametrize("missing", ["manifest.json", "index.jsonl", "shards/00000.tar"])
def test_a_missing_file_is_named(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(InputError, match=Path(missing).name):
        Dataset(folder, "train")


@pytest.mark.parametrize("damaged", ["manifest.json", "index.jsonl"])
def test_a_damaged_description_is_refused(folder: Path, damaged: str) -> None:
    path = folder / damaged
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="damaged"):
        Dataset(folder, "train")


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_index_that_lost_whole_lines_is_refused(folder: Path, split: str) -> None:
    path = folder / "index.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[1:-1]))
    promised, left = {"train": (12, 11), "val": (4, 3)}[split]
    said = f"dataset should have {promised} '{split}' samples, but its index lists {left};"
    with pytest.raises(InputError, match=said):
        Dataset(folder, split)


def test_an_absent_split_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="'test'"):
        Dataset(folder, "test")


def test_a_shard_cut_short_is_refused(folder: Path) -> None:
    shard = folder / "shards" / "00000.tar"
    data = Dataset(folder, "val")
    shard.write_bytes(shard.read_bytes()[: data.samples[-1].mask[0]])
    with pytest.raises(InputError, match="00000.tar"):
        data[len(data) - 1]


def test_a_colour_mask_is_refused(folder: Path) -> None:
    data = Dataset(folder, "val")
    sample = data.samples[0]
    data.samples[0] = sample.model_copy(update={"mask": sample.photo})
    with pytest.raises(InputError, match="mask of val_000"):
        data[0]
