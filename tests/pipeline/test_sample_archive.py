"""The generated archive: valid, deterministic, small, and a fair thing to learn from."""

import io
import os
import subprocess
import sys
import tarfile
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.errors import InputError
from model.palette import colourise, voc_palette
from pipeline.sample_archive import SAMPLE_CLASSES, write_sample_archive

ROOT = "VOCdevkit/VOC2012"
VOID = 255
Files = dict[str, bytes]


def files_of(path: Path) -> Files:
    """Content of every plain file of an uncompressed tar, by name."""
    with tarfile.open(path, "r:") as tar:
        plain = [member for member in tar if member.isfile()]
        return {member.name: tar.extractfile(member).read() for member in plain}  # type: ignore[union-attr]


def ids(files: Files, name: str) -> list[str]:
    return files[f"{ROOT}/ImageSets/Segmentation/{name}.txt"].decode().split()


def ids_in(files: Files, folder: str) -> set[str]:
    return {Path(name).stem for name in files if name.startswith(f"{ROOT}/{folder}/")}


def photo(files: Files, name: str) -> Image.Image:
    return Image.open(io.BytesIO(files[f"{ROOT}/JPEGImages/{name}.jpg"]))


def mask_image(files: Files, name: str) -> Image.Image:
    return Image.open(io.BytesIO(files[f"{ROOT}/SegmentationClass/{name}.png"]))


def masks(files: Files) -> Iterator[NDArray[np.uint8]]:
    for name in ids(files, "trainval"):
        yield np.asarray(mask_image(files, name))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "shapes.tar"
    write_sample_archive(path)
    return path


@pytest.fixture(scope="module")
def files(archive: Path) -> Files:
    return files_of(archive)


def small(path: Path, *, train: int = 40, seed: int = 0, shuffle_masks: bool = False) -> Path:
    write_sample_archive(
        path, train=train, val=10, unlabelled=3, size=32, seed=seed, shuffle_masks=shuffle_masks
    )
    return path


def test_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    first = small(tmp_path / "a.tar").read_bytes()
    np.random.seed(5)  # the archive must neither read nor move the global state
    before = np.random.get_state(legacy=False)["state"]["key"].copy()
    again = small(tmp_path / "b.tar").read_bytes()
    after = np.random.get_state(legacy=False)["state"]["key"]

    assert first == again
    assert (before == after).all()
    assert small(tmp_path / "c.tar", seed=1).read_bytes() != first


def test_a_file_that_has_the_bytes_already_is_left_alone(tmp_path: Path) -> None:
    path = small(tmp_path / "a.tar")
    os.utime(path, (1, 1))
    small(path)
    assert path.stat().st_mtime == 1

    small(path, seed=1)
    assert path.read_bytes() == small(tmp_path / "b.tar", seed=1).read_bytes()
    assert {each.name for each in tmp_path.glob("*.tar*")} == {"a.tar", "b.tar"}


def test_headers_do_not_know_who_wrote_them_or_when(archive: Path) -> None:
    with tarfile.open(archive, "r:") as tar:
        members = tar.getmembers()
    raw = archive.read_bytes()

    assert {(m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, "", "")}
    assert len({m.mtime for m in members}) == 1
    assert {(m.isdir(), m.mode) for m in members} == {(True, 0o755), (False, 0o644)}
    assert {raw[m.offset + 257 : m.offset + 265] for m in members} == {b"ustar\x0000"}
    assert raw.endswith(bytes(1024))


def test_it_is_under_three_megabytes(archive: Path) -> None:
    assert archive.stat().st_size < 3_000_000


def test_layout_is_the_devkit_s(files: Files) -> None:
    lists = {f"{ROOT}/ImageSets/Segmentation/{n}.txt" for n in ("train", "val", "trainval")}
    photos = {f"{ROOT}/JPEGImages/2012_{index:06d}.jpg" for index in range(1, 261)}
    labelled = {f"{ROOT}/SegmentationClass/{name}.png" for name in ids(files, "trainval")}

    assert set(files) == lists | photos | labelled


def test_lists_are_disjoint_and_make_up_trainval(files: Files) -> None:
    train, val, both = (ids(files, name) for name in ("train", "val", "trainval"))

    assert (len(train), len(val)) == (200, 48)
    assert not set(train) & set(val)
    assert both == sorted(train + val)
    assert set(both) == ids_in(files, "SegmentationClass")


def test_unlabelled_photos_are_in_no_list(files: Files) -> None:
    assert len(ids_in(files, "JPEGImages") - set(ids(files, "trainval"))) == 12


def test_sizes_vary_are_partly_odd_and_shared(files: Files) -> None:
    shared = Counter(photo(files, name).size for name in ids(files, "train"))

    assert len(shared) >= 4
    assert max(max(size) for size in shared) == 96
    assert any(width % 2 and height % 2 for width, height in shared)
    assert min(shared.values()) > 10


def test_masks_are_palette_pictures_of_their_photo_s_size(files: Files) -> None:
    for name in ids(files, "trainval"):
        mask = mask_image(files, name)
        assert (mask.mode, mask.size) == ("P", photo(files, name).size)
        assert mask.getpalette() == voc_palette().ravel().tolist()


def test_masks_hold_classes_and_void_only(files: Files) -> None:
    found = {int(value) for mask in masks(files) for value in np.unique(mask)}

    assert found == {*range(len(SAMPLE_CLASSES)), VOID}


def test_void_lies_between_every_two_regions(files: Files) -> None:
    for mask in masks(files):
        height, width = mask.shape
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
            left, at = max(0, -right), max(0, right)
            here = mask[: height - down, left : width - at]
            there = mask[down:, left + right : width - at + right]
            assert ((here == there) | (here == VOID) | (there == VOID)).all()
        assert (mask == VOID).mean() < 0.25


def test_every_class_has_its_share_of_the_pixels(files: Files) -> None:
    counts = sum(np.bincount(mask.ravel(), minlength=256) for mask in masks(files))
    share = np.asarray(counts) / np.sum(counts)

    assert share[1 : len(SAMPLE_CLASSES)].min() > 0.04
    assert share[1 : len(SAMPLE_CLASSES)].max() < 2 * share[1 : len(SAMPLE_CLASSES)].min()
    assert share[0] < 0.75


def test_a_constant_prediction_scores_low(files: Files) -> None:
    counts = sum(np.bincount(mask.ravel(), minlength=256) for mask in masks(files))
    of_class = np.asarray(counts)[: len(SAMPLE_CLASSES)]

    assert of_class.max() / of_class.sum() / len(SAMPLE_CLASSES) <= 0.25


def test_shuffling_moves_training_masks_and_loses_none(tmp_path: Path) -> None:
    honest = files_of(small(tmp_path / "honest.tar"))
    shuffled = files_of(small(tmp_path / "shuffled.tar", shuffle_masks=True))
    folder = f"{ROOT}/SegmentationClass"
    train = [f"{folder}/{name}.png" for name in ids(honest, "train")]

    assert Counter(honest[name] for name in train) == Counter(shuffled[name] for name in train)
    assert all(honest[name] != shuffled[name] for name in train)
    untouched = honest.keys() - set(train)
    assert all(honest[name] == shuffled[name] for name in untouched)
    for name in ids(shuffled, "train"):
        assert mask_image(shuffled, name).size == photo(shuffled, name).size


def test_memory_does_not_grow_with_the_archive(tmp_path: Path) -> None:
    peaks, sizes = [], []
    for train in (10, 1010):  # far more than what else goes on in this process
        tracemalloc.start()
        sizes.append(small(tmp_path / f"{train}.tar", train=train).stat().st_size)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    assert peaks[1] - peaks[0] < 0.2 * (sizes[1] - sizes[0])


def test_a_path_that_cannot_be_written_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    here = tmp_path / "here"
    (here / "folder").mkdir(parents=True)
    (here / "file").touch()
    for path in (here / "folder", here / "file" / "a.tar"):
        with pytest.raises(InputError, match=f"{path} cannot be written"):
            small(path)

    assert sorted(path.name for path in here.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("wrong", [{"train": 0}, {"val": 0}, {"unlabelled": -1}, {"size": 8}])
def test_numbers_that_make_no_archive_are_refused(wrong: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(InputError):
        write_sample_archive(tmp_path / "a.tar", **wrong)  # type: ignore[arg-type]


def test_the_command_writes_what_the_function_writes(tmp_path: Path) -> None:
    numbers = ["--train=40", "--val=10", "--unlabelled=3", "--size=32", "--seed=7"]
    command = [sys.executable, "-m", "pipeline.sample_archive"]
    subprocess.run([*command, tmp_path / "a.tar", *numbers], check=True, capture_output=True)
    wrong = subprocess.run([*command, tmp_path / "b.tar", "--size", "1"], capture_output=True)

    assert (tmp_path / "a.tar").read_bytes() == small(tmp_path / "c.tar", seed=7).read_bytes()
    assert wrong.returncode == 2
    assert wrong.stderr.startswith(b"A sample archive needs")


def test_the_palette_is_voc_s() -> None:
    known = {0: (0, 0, 0), 1: (128, 0, 0), 8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
    palette = voc_palette()

    assert palette.shape == (256, 3)
    assert palette.dtype == np.uint8
    assert {index: tuple(palette[index].tolist()) for index in known} == known
    assert palette[VOID].tolist() == [224, 224, 192]
    assert colourise(np.array([[1, VOID]], np.uint8)).tolist() == [[[128, 0, 0], [224, 224, 192]]]
