"""Checkpoints: whole or absent, and which of them counts."""

import errno
import itertools
import os
import resource
import shutil
from pathlib import Path

import pytest
import torch

from checkpoints import WEIGHTS, describe, save
from model import checkpoint
from model.checkpoint import BLOB, MANIFEST, Description
from model.errors import InputError


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir() if path.name[0] in "0123456789")


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    saved = save(tmp_path, 4, 0.5)
    description, state = checkpoint.load(saved / BLOB)
    assert description == describe(4, 0.5)
    assert state.keys() == {"net"}
    assert checkpoint.weights_digest(state["net"]) == checkpoint.weights_digest(WEIGHTS)


def test_the_manifest_describes_the_blob(tmp_path: Path) -> None:
    saved = save(tmp_path, 4, 0.5)
    manifest = checkpoint.verified(saved)
    assert manifest is not None
    assert manifest.sha256 == checkpoint.file_sha256(saved / BLOB)
    assert manifest.size == (saved / BLOB).stat().st_size
    assert manifest.weights_digest == checkpoint.weights_digest(WEIGHTS)
    assert Description(**manifest.model_dump(include=set(Description.model_fields))) == describe(
        4, 0.5
    )


# Which count


@pytest.mark.parametrize("file", [BLOB, MANIFEST])
def test_damaged_is_not_verified(tmp_path: Path, file: str) -> None:
    saved = save(tmp_path, 1)
    (saved / file).write_bytes((saved / file).read_bytes()[:-9])
    assert checkpoint.verified(saved) is None


@pytest.mark.parametrize("file", [BLOB, MANIFEST])
def test_half_is_not_verified(tmp_path: Path, file: str) -> None:
    saved = save(tmp_path, 1)
    (saved / file).unlink()
    assert checkpoint.verified(saved) is None
    assert checkpoint.newest(tmp_path) is None


def test_newest_is_the_newest_that_verifies(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None
    first, second, third = save(tmp_path, 9), save(tmp_path, 10), save(tmp_path, 100_000_000)
    assert checkpoint.newest(tmp_path) == third
    damage(third / BLOB)
    assert checkpoint.newest(tmp_path) == second
    damage(second / BLOB)
    assert checkpoint.newest(tmp_path) == first


def test_best_is_the_best_that_verifies_and_the_newest_of_equals(tmp_path: Path) -> None:
    assert checkpoint.best(tmp_path) is None
    save(tmp_path, 1)
    assert checkpoint.best(tmp_path) is None
    low, high, equal = save(tmp_path, 2, 0.0), save(tmp_path, 3, 0.5), save(tmp_path, 4, 0.5)
    save(tmp_path, 5, 0.4)
    assert checkpoint.best(tmp_path) == equal
    damage(equal / BLOB)
    assert checkpoint.best(tmp_path) == high
    shutil.rmtree(high)
    shutil.rmtree(tmp_path / "00000005")
    assert checkpoint.best(tmp_path) == low


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([0.1, 0.5, 0.3, 0.4], [1, 3]),
        ([0.1, 0.2, 0.3], [2]),
        ([0.5, 0.5, 0.5, 0.1], [2, 3]),
        ([0.5, None, 0.2, None], [0, 3]),
        ([0.0, None, None], [0, 2]),
        ([None, None], [1]),
        ([], []),
    ],
)
def test_only_best_and_last_are_kept(
    tmp_path: Path, scores: list[float | None], kept: list[int]
) -> None:
    for step, miou in enumerate(scores):
        save(tmp_path, step, miou)
    checkpoint.keep_best_and_last(tmp_path)
    assert steps(tmp_path) == kept


# Atomicity


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", ["blob", "manifest"])
def test_a_crash_leaves_the_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    earlier = save(tmp_path, 1, 0.5)

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(
            *((checkpoint, "weights_digest") if after == "blob" else (Path, "rename")), die
        )
        with pytest.raises(Killed):
            save(tmp_path, 2, 0.9)
    assert steps(tmp_path) == [1]
    assert checkpoint.newest(tmp_path) == checkpoint.best(tmp_path) == earlier
    checkpoint.keep_best_and_last(tmp_path)
    assert checkpoint.verified(earlier)
    again = save(tmp_path, 2, 0.9)
    assert checkpoint.newest(tmp_path) == again
    assert steps(tmp_path) == [1, 2]


def test_a_damaged_checkpoint_is_replaced(tmp_path: Path) -> None:
    saved = save(tmp_path, 1)
    damage(saved / BLOB)
    save(tmp_path, 1)
    assert checkpoint.verified(saved)


@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_kill_while_one_is_replaced_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """At the renaming of the old, at that of the new, and when the old is half deleted."""
    save(tmp_path, 1, 0.9)
    replaced = save(tmp_path, 2)
    calls = itertools.count(1)
    rename, rmtree = Path.rename, shutil.rmtree

    def renamed(path: Path, target: Path) -> Path:
        if next(calls) == call:
            raise Killed
        return rename(path, target)

    def deleted(path: Path, ignore_errors: bool = False) -> None:
        if path.exists() and next(calls) == call:
            next(path.iterdir()).unlink()
            raise Killed
        rmtree(path, ignore_errors=ignore_errors)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", renamed)
        patch.setattr(shutil, "rmtree", deleted)
        with pytest.raises(Killed):
            save(tmp_path, 2, 0.5)
    checkpoint.recover(tmp_path)

    assert checkpoint.newest(tmp_path) == replaced
    assert checkpoint.load(replaced / BLOB)[0] == describe(2, 0.5)
    assert steps(tmp_path) == [1, 2]
    assert not list(tmp_path.glob(".*"))


def test_what_was_not_whole_when_it_was_killed_is_forgotten(tmp_path: Path) -> None:
    saved = save(tmp_path, 2)
    half = tmp_path / ".00000002.part"
    shutil.copytree(saved, half)
    (half / MANIFEST).unlink()
    checkpoint.recover(tmp_path)
    assert not half.exists()
    assert checkpoint.newest(tmp_path) == saved


@pytest.mark.parametrize("kilobytes", [0, 1, 40, 100, 157])
def test_a_save_that_fills_the_disk_says_so_and_leaves_its_room(
    tmp_path: Path, kilobytes: int
) -> None:
    """Wherever torch meets the limit on a file's size, which stands in for the disk's end."""
    folder = tmp_path / "checkpoints"
    large = {"net": {"a": torch.zeros(20_000), "b": torch.zeros(20_000)}}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes << 10, before[1]))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            checkpoint.save(folder, describe(1), large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    assert list(folder.iterdir()) == []
    checkpoint.save(folder, describe(1), large)
    assert checkpoint.newest(folder)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / BLOB)
    writer = os.open(tmp_path / BLOB, os.O_RDWR)  # with one, also who does open it goes on
    try:
        with pytest.raises(InputError, match=f"{BLOB} is no file; name a"):
            checkpoint.load(tmp_path / BLOB)
    finally:
        os.close(writer)


@pytest.mark.parametrize("name", ["\x1b]0;owned\x07", "a\nb", "\x9b2J", "\u202egod"], ids=ascii)
def test_class_names_that_a_terminal_would_obey_are_refused(tmp_path: Path, name: str) -> None:
    hostile = describe(1).model_copy(update={"classes": ("background", name)})
    checkpoint_file = tmp_path / BLOB
    torch.save({"description": hostile.model_dump_json(), "net": WEIGHTS}, checkpoint_file)
    with pytest.raises(InputError) as caught:
        checkpoint.load(checkpoint_file)
    assert str(caught.value) == f"{checkpoint_file} is not a whole checkpoint of voc-train."


def test_bytes_that_are_no_manifest() -> None:
    for data in (b"", b"{}", b"\xff", b'{"format": 1}'):
        assert checkpoint.parse_manifest(data) is None
