"""Lists made to fill the memory or to speak to the terminal: refused in a short, plain sentence."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from devkit import devkit, entry, extracted
from infra.stores import Store
from model.errors import InputError
from pipeline.progress import Progress, silent
from pipeline.stages.separate import Separation, separate

LISTS = "VOCdevkit/VOC2012/ImageSets/Segmentation"


@pytest.fixture
def split(tmp_path: Path, store: Store, spool: Path) -> Callable[..., Separation]:
    """Separate one archive, given by the arguments of `devkit`."""

    def split(
        kit: dict[str, Any], *, skip_missing: bool = False, report: Progress = silent
    ) -> Separation:
        archives = extracted(store, spool, devkit(tmp_path / "0.tar", **kit))
        return separate(archives, store, spool, skip_missing=skip_missing, report=report)[0]

    return split


def trained(separation: Separation) -> list[str]:
    return [pair.id for pair in separation.pairs if pair.split == "train"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"one\n" + b"x" * 4097, "line 2: 'xxx.* is not one id of at most 4096"),
        (b"one\n\x1b[2Jtwo\n", r"line 2: '\\x1b\[2Jtwo' is not one id"),
        ("\x9b2Jone".encode(), r"line 1: '\\x9b2Jone' is not one id"),
        ("eno\u202e".encode(), r"line 1: 'eno\\u202e' is not one id"),
    ],
)
def test_lines_that_are_no_id_are_refused(
    split: Callable[..., Separation], store: Store, text: bytes, message: str
) -> None:
    with pytest.raises(InputError, match=f"0.tar: .*train.txt, {message}") as caught:
        split({"lists": {"train": text}})
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    assert not list(store.list("splits"))


def test_a_line_may_be_as_long_as_a_name(split: Callable[..., Separation]) -> None:
    text = b"one\n" + b"x" * 4095 + b"\ntwo\n"
    found = split({"lists": {"train": text}}, skip_missing=True)
    assert trained(found) == ["2012_one", "2012_two"]
    assert found.missing == 1


def test_messages_about_ids_stay_short(split: Callable[..., Separation]) -> None:
    text = b"".join(b"%d%s\n" % (number, b"y" * 4000) for number in range(50))
    with pytest.raises(
        InputError, match=r"lists 50 ids that lack .*: 0y+ \(photo\), 1y.*, …"
    ) as told:
        split({"lists": {"train": b"one\n" + text}})
    assert len(str(told.value)) < 700
    long = "z" * 1000
    with pytest.raises(InputError, match="zzz is listed both in train.txt and in val.txt") as told:
        split({"train": ("one", long), "lists": {"val": f"three\n{long}\n".encode()}})
    assert len(str(told.value)) < 500


def test_an_id_that_a_list_repeats_is_read_once(split: Callable[..., Separation]) -> None:
    told: list[float] = []
    kit = {"lists": {"train": b"one\n" * 5000 + b"two\n"}}
    found = split(kit, report=lambda done, total=None, note="": told.append(done))
    assert trained(found) == ["2012_one", "2012_two"]
    assert found.duplicate == 4999
    assert len(told) == 3  # once a photo


@pytest.mark.parametrize("line", [b"one\n", b"nobody\n"])
def test_a_long_list_of_little_takes_little_memory(
    split: Callable[..., Separation], line: bytes
) -> None:
    tracemalloc.start()
    split({"lists": {"train": b"two\none\n" + line * 100_000}}, skip_missing=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 << 20  # the list is in it, and so is the tar that holds it


@pytest.mark.parametrize(
    ("member", "limit"),
    [
        (f"{LISTS}/test.txt", "devkit._MAX_LIST_BYTES"),
        ("VOCdevkit/VOC2012/JPEGImages/four.jpg", "found._MAX_BYTES"),
    ],
)
def test_a_member_that_would_fill_the_memory_is_refused(
    split: Callable[..., Separation], monkeypatch: pytest.MonkeyPatch, member: str, limit: str
) -> None:
    monkeypatch.setattr(f"pipeline.layouts.{limit}", 100_000)
    big = entry(member, bytes(100_001))
    mask = entry("VOCdevkit/VOC2012/SegmentationClass/four.png", b"mask")
    kit = {"lists": {"train": b"one\nfour\n"}, "extra": [big, mask]}
    with pytest.raises(InputError, match=rf"{member} has 100,001 bytes.*take it out"):
        split(kit)
