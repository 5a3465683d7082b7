"""What has been decoded is kept, within its room, and shared by the processes that load."""

import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest

from model.dataset import Dataset
from model.decoded import Decoded
from model.errors import InputError
from model.images import Image
from tiny import RECIPE, write_dataset


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    write_dataset(tmp_path / "d")
    return Dataset(tmp_path / "d", "train")


def spoil(data: Dataset) -> None:
    """Let no photo be decoded any more."""
    data.samples = [sample.model_copy(update={"photo": (0, 0)}) for sample in data.samples]


def assert_same(one: tuple[Image, Image], other: tuple[Image, Image]) -> None:
    for left, right in zip(one, other, strict=True):
        assert left.dtype == right.dtype == np.uint8
        np.testing.assert_array_equal(left, right)


def bytes_of(data: Dataset, first: int) -> int:
    return int(4 * data.sizes[:first].prod(axis=1).sum())


@pytest.mark.parametrize("fit", ["crop", "resize"])
def test_a_second_time_nothing_is_decoded(data: Dataset, fit: str) -> None:
    decoded = Decoded(data, RECIPE.override({"fit": fit}), 10**6)
    first = [decoded[position] for position in range(len(data))]
    assert {mask.shape for _, mask in first} == (
        {(16, 16)} if fit == "resize" else {*map(tuple, data.sizes.tolist())}
    )
    spoil(data)
    for position, pair in enumerate(first):
        assert_same(decoded[position], pair)


@pytest.mark.parametrize(("spare", "kept"), [(0, 5), (-1, 4)])
def test_as_many_are_kept_as_there_is_room_for(data: Dataset, spare: int, kept: int) -> None:
    decoded = Decoded(data, RECIPE, bytes_of(data, 5) + spare)
    first = [decoded[position] for position in range(len(data))]
    spoil(data)
    for position, pair in enumerate(first):
        if position < kept:
            assert_same(decoded[position], pair)
        else:
            with pytest.raises(InputError):
                decoded[position]


def test_what_a_process_has_decoded_another_has_too(data: Dataset) -> None:
    decoded = Decoded(data, RECIPE, 10**6)
    process = multiprocessing.get_context("fork").Process(target=decoded.__getitem__, args=(3,))
    process.start()
    process.join()
    wanted = data[3]
    spoil(data)
    assert_same(decoded[3], (wanted.photo, wanted.mask))
    with pytest.raises(InputError):
        decoded[2]


def test_one_that_is_spawned_decodes_for_itself(data: Dataset) -> None:
    decoded = Decoded(data, RECIPE, 10**6)
    wanted = decoded[3]
    other = pickle.loads(pickle.dumps(decoded))
    for _ in range(2):
        assert_same(other[3], wanted)
