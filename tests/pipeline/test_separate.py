"""separate: who trains and who judges, whatever the archives and their lists look like."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from obstore.store import LocalStore

from devkit import devkit, entry, extracted, jpeg
from infra.stores import Store
from model.errors import InputError
from model.indexed_tar import TarReader
from pipeline.archive import local_tar
from pipeline.stages.separate import Separation, separate

Ids = dict[str, list[str]]
LISTS = "VOCdevkit/VOC2012/ImageSets/Segmentation"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


@pytest.fixture
def split(tmp_path: Path, store: Store) -> Callable[..., Separation]:
    """Separate archives, each given by the arguments of `devkit`."""

    def split(*kits: dict[str, Any], skip_missing: bool = False) -> Separation:
        paths = [devkit(tmp_path / f"{n}.tar", **kit) for n, kit in enumerate(kits)]
        archives = extracted(store, tmp_path / "spool", *paths)
        return separate(archives, store, tmp_path / "spool", skip_missing=skip_missing)[0]

    return split


def ids(separation: Separation) -> Ids:
    found: Ids = {}
    for pair in separation.pairs:
        found.setdefault(pair.split, []).append(pair.id)
    return found


def test_2012_alone(split: Callable[..., Separation]) -> None:
    found = split({"train": ("2007_000032", "2009_000001"), "val": ("2008_000002",)})
    assert ids(found) == {"train": ["2007_000032", "2009_000001"], "val": ["2008_000002"]}
    assert set(found.left_out().values()) == {0}


def test_2007_alone(split: Callable[..., Separation]) -> None:
    found = split({"train": ("000032",), "val": ("000033", "000039"), "year": 2007})
    assert ids(found) == {"train": ["2007_000032"], "val": ["2007_000033", "2007_000039"]}


def test_all_three_merged(split: Callable[..., Separation]) -> None:
    """What 2007's own test archive lists judges, and never by its new name in 2012 trains."""
    found = split(
        {"year": 2007, "train": ("000032",), "val": ("000033",)},
        {"year": 2007, "train": (), "val": (), "test": ("000068", "000175")},
        {"train": ("2007_000032", "2007_000068", "2009_000001"), "val": ("2007_000033",)},
    )
    assert ids(found) == {
        "test": ["2007_000068", "2007_000175"],
        "train": ["2007_000032", "2009_000001"],
        "val": ["2007_000033"],
    }
    assert (found.count("train"), found.count("val"), found.count("test")) == (2, 1, 2)
    assert (found.duplicate, found.withheld) == (2, 1)


def test_pairs_say_where_their_bytes_lie(tmp_path: Path, store: Store) -> None:
    spool = tmp_path / "spool"
    archives = extracted(store, spool, devkit(tmp_path / "a.tar", train=("one",)))
    separation, _ = separate(archives, store, spool)
    pair = next(pair for pair in separation.pairs if pair.id == "2012_one")
    assert pair.archive == archives[0].sha256
    assert pair.photo_name == "VOCdevkit/VOC2012/JPEGImages/one.jpg"
    with TarReader(local_tar(archives[0], store, spool)) as tar:
        assert tar.read(*pair.photo) == jpeg("one")
        assert tar.read(*pair.mask).startswith(b"\x89PNG")


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    "first",
    [
        pytest.param({"year": 2007, "train": ("000001",), "val": ("000032",)}, id="by id"),
        pytest.param({"train": ("2011_1",), "val": ("2011_9",)}, id="by content"),
    ],
)
def test_a_validation_photo_never_trains_in_another_archive(
    split: Callable[..., Separation], first: dict[str, Any], turned: bool
) -> None:
    photo = jpeg("the same")
    kits = [
        first | {"photos": {"2011_9": photo}},
        {"train": ("2007_000032", "2010_5"), "val": ("2010_6",), "photos": {"2007_000032": photo}},
    ]
    if "000032" in first["val"]:  # the same photo by id may be another file
        kits[1]["photos"] = {"2007_000032": jpeg("other bytes")}
    found = split(*(kits[::-1] if turned else kits))
    assert "2007_000032" not in ids(found)["train"]
    assert "2010_5" in ids(found)["train"]
    assert (found.withheld, found.duplicate) == (1, 0)


def test_a_validation_photo_never_trains_under_another_id(
    split: Callable[..., Separation],
) -> None:
    found = split({"photos": {"two": jpeg("three")}})
    assert ids(found) == {"train": ["2012_one"], "val": ["2012_three"]}
    assert found.withheld == 1


def test_what_is_tested_does_not_train_and_what_validates_is_not_tested(
    split: Callable[..., Separation],
) -> None:
    found = split(
        {"test": ("four", "five"), "photos": {"two": jpeg("four"), "five": jpeg("three")}}
    )
    assert ids(found) == {"test": ["2012_four"], "train": ["2012_one"], "val": ["2012_three"]}
    assert found.withheld == 2


@pytest.mark.parametrize("train", [("2010_1", "2008_9", "2010_2"), ("2008_9", "2010_1", "2010_2")])
def test_a_third_name_does_not_hide_a_validation_photo(
    split: Callable[..., Separation], train: tuple[str, ...]
) -> None:
    """2008_9 is in validation by its id, as another file; 2010_1 has the bytes of that file."""
    found = split(
        {"train": ("2011_1",), "val": ("2008_9",)},
        {
            "train": train,
            "val": ("2010_6",),
            "photos": {"2008_9": jpeg("packed anew"), "2010_1": jpeg("packed anew")},
        },
    )
    assert ids(found)["train"] == ["2010_2", "2011_1"]
    assert found.withheld == 2


def test_counts_of_what_was_left_out(split: Callable[..., Separation]) -> None:
    found = split(
        {
            "train": ("one", "two", "bare", "gone"),
            "unlisted": ("spare", "plain", "odd"),
            "lists": {"train": b"one\ntwo\ntwo\nbare\ngone\nnever\n"},
            "masks": {"plain": None, "odd": None, "bare": None},
            "photos": {"gone": None, "two": jpeg("one")},
        },
        skip_missing=True,
    )
    assert ids(found) == {"train": ["2012_one"], "val": ["2012_three"]}
    assert found.left_out() == {
        "unlabelled": 3,  # plain, odd, bare
        "unlisted": 1,  # spare
        "missing": 3,  # bare, gone, never
        "duplicate": 2,  # two twice, and by content one
        "withheld": 0,
    }


def test_missing_ids_are_refused_unless_asked_to_skip_them(
    split: Callable[..., Separation],
) -> None:
    kit = {"masks": {"two": None}}
    with pytest.raises(InputError, match=r"0\.tar lists 1 ids.*: two \(mask\).*--skip-missing"):
        split(kit)
    assert ids(split(kit, skip_missing=True))["train"] == ["2012_one"]


def test_a_second_call_reads_nothing(tmp_path: Path, store: Store) -> None:
    spool, path = tmp_path / "spool", devkit(tmp_path / "a.tar")
    archives = extracted(store, spool, path)
    first, reused = separate(archives, store, spool)
    assert not reused
    path.unlink()
    store.delete(archives[0].index_key)
    assert separate(archives, store, spool) == (first, True)


@pytest.mark.parametrize(
    "text",
    [
        b"one\r\ntwo\r\n",
        b"one  \ntwo\t\n",
        b"\n\none\n\n  \ntwo",
        b"\xef\xbb\xbfone\ntwo\n",
        b"  one\n two\n",
        b"two\none\n",
    ],
    ids=["CRLF", "trailing blanks", "blank lines", "BOM", "indented", "another order"],
)
def test_lists_as_people_write_them(split: Callable[..., Separation], text: bytes) -> None:
    assert ids(split({"lists": {"train": text}}))["train"] == ["2012_one", "2012_two"]


def test_the_order_of_lists_and_archives_changes_nothing(tmp_path: Path, store: Store) -> None:
    """Not even which of two equal photos stays."""
    same = {name: jpeg("same") for name in ("b", "c", "x", "y")}
    spool = tmp_path / "spool"
    found = set()
    for order, (train, val) in enumerate([(("a", "b", "c"), ("d", "x", "y"))] * 2):
        turn = slice(None, None, -1 if order else 1)
        paths = [
            devkit(tmp_path / "1.tar", train=train[turn], val=("d",), photos=same),
            devkit(tmp_path / "2.tar", train=("e",), val=val[turn][:3], photos=same),
        ]
        separation, _ = separate(extracted(store, spool, *paths[turn]), store, spool)
        found.add(json.dumps([ids(separation), separation.left_out()]))
    assert len(found) == 1


def test_the_order_of_archives_names_the_same_split(tmp_path: Path, store: Store) -> None:
    spool = tmp_path / "spool"
    paths = [
        devkit(tmp_path / "1.tar", train=("000032",), year=2007),
        devkit(tmp_path / "2.tar", train=("2007_000032", "two"), val=("four",)),
    ]
    archives = extracted(store, spool, *paths)
    first, _ = separate(archives, store, spool)
    assert separate([*archives[::-1], archives[0]], store, spool) == (first, True)


def test_devkits_in_one_archive_may_split_a_photo_differently(tmp_path: Path, store: Store) -> None:
    """2007 and 2012 do so: within one devkit it is a mistake, between two the judge wins."""
    old = devkit(tmp_path / "old.tar", train=("000032", "000033"), val=("000039",), year=2007)
    spool = tmp_path / "spool"
    (archive,) = extracted(store, spool, old)
    members = []
    with TarReader(old) as tar:
        separation, _ = separate([archive], store, spool)
        for pair in separation.pairs:
            for name, place in ((pair.photo_name, pair.photo), (pair.mask_name, pair.mask)):
                members.append(entry(name, tar.read(*place)))
    folder = LISTS.replace("2012", "2007")
    members += [
        entry(f"{folder}/train.txt", b"000032\n000033\n"),
        entry(f"{folder}/val.txt", b"000039\n"),
    ]
    both = devkit(tmp_path / "both.tar", train=("new",), val=("2007_000032",), extra=members)
    found, _ = separate(extracted(store, spool, both), store, spool)
    assert ids(found) == {
        "train": ["2007_000033", "2012_new"],
        "val": ["2007_000032", "2007_000039"],
    }


@pytest.mark.parametrize(
    ("kit", "message"),
    [
        (
            {"lists": {"train": b""}},
            "No pair is left in the train list of .*0.tar; name an",
        ),
        ({"lists": {"val": b" \r\n"}}, "No pair is left in the val list"),
        ({"photos": {n: jpeg("x") for n in ("one", "two", "three")}}, "left in the train list"),
        ({"lists": {"val": b"three\ntwo\n"}}, "0.tar: two is listed both in train.txt and in val"),
        ({"lists": {"train": b"one 1\n"}}, "0.tar: .*train.txt, line 1: 'one 1' is not one id"),
        ({"lists": {"train": "one\n".encode("utf-16")}}, "train.txt is not UTF-8 text"),
        ({"lists": {"train": None, "val": None}}, "0.tar has no ImageSets/Segmentation/train.txt"),
    ],
)
def test_lists_that_are_refused(
    split: Callable[..., Separation], store: Store, kit: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        split(kit)
    assert not list(store.list("splits"))


def test_a_folder_that_only_ends_like_the_lists_is_none(split: Callable[..., Separation]) -> None:
    found = split({"extra": [entry("OldImageSets/Segmentation/val.txt", b"nobody\n")]})
    assert ids(found)["val"] == ["2012_three"]


def test_only_what_is_needed_must_be_there(store: Store, tmp_path: Path) -> None:
    """A test archive alone can be scored; that it was once scored does not let it train."""
    path = devkit(tmp_path / "test.tar", lists={"train": None, "val": None, "test": b"one\n"})
    archives = extracted(store, tmp_path / "spool", path)
    found, _ = separate(archives, store, tmp_path / "spool", needed=("test",))
    assert [pair.split for pair in found.pairs] == ["test"]
    with pytest.raises(InputError, match="left in the train list"):
        separate(archives, store, tmp_path / "spool")


def test_a_tar_that_changes_while_it_is_read_is_refused(tmp_path: Path, store: Store) -> None:
    """Downloaded again in place: what was read is not what the archive's hash says."""
    spool, path = tmp_path / "spool", devkit(tmp_path / "a.tar")
    archives = extracted(store, spool, path)

    def overwrite(*_: object) -> None:
        with path.open("r+b") as file:
            file.write(path.read_bytes())
        os.utime(path, (0, 0))  # clocks of file systems are coarse

    with pytest.raises(InputError, match="a.tar changed while it was read; run it again"):
        separate(archives, store, spool, report=overwrite)
    assert not list(store.list("splits"))


def test_a_tar_that_the_store_has_copied_may_change(tmp_path: Path) -> None:
    spool, path = tmp_path / "spool", devkit(tmp_path / "a.tar")
    (tmp_path / "bucket").mkdir()
    bucket = Store("s3://bucket", LocalStore(tmp_path / "bucket"))
    archives = extracted(bucket, spool, path)
    path.unlink()
    assert ids(separate(archives, bucket, spool)[0])["train"] == ["2012_one", "2012_two"]
