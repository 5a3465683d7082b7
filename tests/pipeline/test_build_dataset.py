"""build-dataset: what went in comes out, the same way every time, and only whole datasets count."""

import itertools
import json
import os
import tarfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from devkit import devkit, encoded, extracted, jpeg, mask_of, palette_png, prepared
from folder_archives import black_and_white, two_folders
from infra.stores import Store
from model.dataset import Dataset
from model.errors import InputError
from model.images import decode_mask, decode_photo, sample_digest
from model.indexed_tar import TarReader
from model.manifest import SPLITS, Manifest, read_index
from model.palette import colourise
from pipeline.dataset import dataset_prefix
from pipeline.layouts.layout import Layout
from pipeline.parameters import VOC_CLASSES
from pipeline.stages.build_dataset import build_dataset
from pipeline.stages.separate import separate

TRAIN = tuple(f"t{number}" for number in range(6))
VAL = ("v1", "v2")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return devkit(tmp_path / "voc.tar", train=TRAIN, val=VAL)


def folder(manifest: Manifest, store: Store) -> Path:
    path = store.local_path(dataset_prefix(manifest.key))
    assert path is not None
    return path


def samples(manifest: Manifest, store: Store) -> dict[str, Any]:
    """Every sample by id, as the loader returns it."""
    datasets = [Dataset(folder(manifest, store), s) for s in SPLITS if manifest.counts[s]]
    return {sample.id: sample for data in datasets for sample in data}


def test_samples_are_what_the_archive_holds(archive: Path, store: Store, spool: Path) -> None:
    _, manifest = prepared(store, spool, archive)
    found = samples(manifest, store)
    assert sorted(found) == sorted(f"2012_{name}" for name in TRAIN + VAL)
    for name in TRAIN + VAL:
        sample = found[f"2012_{name}"]
        assert sample.photo.tolist() == decode_photo(jpeg(name), name).tolist()
        assert sample.mask.tolist() == mask_of(name).tolist()
    assert manifest.counts == {"train": 6, "val": 2, "test": 0}


def test_masks_of_any_kind_become_the_same_indices(
    tmp_path: Path, store: Store, spool: Path
) -> None:
    drawn = mask_of("t0")
    kinds = {
        "t0": palette_png(drawn),
        "t1": encoded(Image.fromarray(colourise(drawn)), "PNG"),
        "t2": encoded(Image.fromarray(drawn), "PNG"),
    }
    _, manifest = prepared(
        store, spool, devkit(tmp_path / "a.tar", train=tuple(kinds), masks=kinds)
    )
    assert 255 in drawn
    for name in kinds:
        assert samples(manifest, store)[f"2012_{name}"].mask.tolist() == drawn.tolist()


def test_photos_of_any_kind_are_taken(tmp_path: Path, store: Store, spool: Path) -> None:
    """Grey, CMYK, turned by EXIF and of a single pixel."""
    exif = Image.Exif()
    photos: dict[str, bytes | None] = {
        "grey": jpeg("a", mode="L"),
        "cmyk": jpeg("a", mode="CMYK"),
        "dot": jpeg("a", 1, 1),
        "greydot": jpeg("a", 1, 1, mode="L"),
    }
    masks: dict[str, bytes | None] = {name: palette_png(mask_of(name, 1, 1)) for name in photos}
    masks |= {name: palette_png(mask_of(name)) for name in ("grey", "cmyk")}
    upright = {}
    for orientation, turns in ((3, 2), (6, 3), (8, 1)):
        exif[0x0112] = orientation
        name = f"turned{orientation}"
        photos[name] = data = jpeg(name, exif=exif)
        upright[name] = np.rot90(decode_photo(data, name), turns)
        masks[name] = palette_png(mask_of(name, *upright[name].shape[:2]))
    exif[0x0112] = 6
    photos["raw6"], masks["raw6"] = jpeg("raw6", exif=exif), palette_png(mask_of("raw6"))
    _, manifest = prepared(
        store, spool, devkit(tmp_path / "a.tar", train=tuple(photos), photos=photos, masks=masks)
    )
    found = samples(manifest, store)
    shapes = {name: found[f"2012_{name}"].photo.shape for name in photos}
    assert shapes["grey"] == shapes["cmyk"] == shapes["turned3"] == shapes["raw6"] == (12, 16, 3)
    assert shapes["dot"] == shapes["greydot"] == (1, 1, 3)
    for name, photo in upright.items():
        off = np.abs(found[f"2012_{name}"].photo.astype(int) - photo)
        assert off.max() <= 2, name  # two JPEG decoders may round differently
    for sample in found.values():
        assert sample.photo.shape[:2] == sample.mask.shape


def test_the_longest_side_is_limited(tmp_path: Path, store: Store, spool: Path) -> None:
    wide, small = mask_of("wide", 20, 40), mask_of("small", 8, 6)
    path = devkit(
        tmp_path / "a.tar",
        train=("wide", "small"),
        photos={"wide": jpeg("wide", 20, 40), "small": jpeg("small", 8, 6)},
        masks={"wide": palette_png(wide), "small": palette_png(small)},
    )
    _, manifest = prepared(store, spool, path, max_side=10)
    found = samples(manifest, store)
    assert found["2012_wide"].photo.shape == (5, 10, 3)
    assert found["2012_wide"].mask.shape == (5, 10)
    assert set(np.unique(found["2012_wide"].mask)) <= set(np.unique(wide))
    assert found["2012_small"].mask.tolist() == small.tolist()
    assert manifest.max_side == 10


def test_shards_are_webdatasets(archive: Path, store: Store, spool: Path) -> None:
    """Any tool can read them: plain files, those of one sample side by side, one key each."""
    _, manifest = prepared(store, spool, archive, shard_bytes=4000)
    keys = []
    for shard in manifest.shards:
        path = folder(manifest, store) / "shards" / shard.name
        assert (path.stat().st_size, sha256(path.read_bytes()).hexdigest()) == (
            shard.size,
            shard.sha256,
        )
        with tarfile.open(path, "r:") as tar:
            for key, group in itertools.groupby(tar, key=lambda m: m.name.partition(".")[0]):
                files = {member.name.removeprefix(f"{key}."): member for member in group}
                assert sorted(files) == ["jpg", "mask.png"]
                mask = tar.extractfile(files["mask.png"])
                assert mask is not None
                name = key.rpartition("_")[2]
                assert decode_mask(mask.read(), key).tolist() == mask_of(name).tolist()
                keys.append(key)
    assert sorted(keys) == sorted(
        [f"train/2012_{name}" for name in TRAIN] + [f"val/2012_{name}" for name in VAL]
    )
    assert len(manifest.shards) > 1


def test_an_id_with_dots_is_one_key(tmp_path: Path, store: Store, spool: Path) -> None:
    _, manifest = prepared(store, spool, devkit(tmp_path / "a.tar", train=("a.b/c", "a.b")))
    with tarfile.open(folder(manifest, store) / "shards" / manifest.shards[0].name) as tar:
        names = [name for name in tar.getnames() if name.startswith("train/")]
    assert len({name.partition(".")[0] for name in names}) == 2
    assert {name.partition(".")[2] for name in names} == {"jpg", "mask.png"}
    assert {"2012_a.b/c", "2012_a.b"} <= samples(manifest, store).keys()


def test_the_index_says_where_everything_lies(archive: Path, store: Store, spool: Path) -> None:
    _, manifest = prepared(store, spool, archive, shard_bytes=4000)
    index = folder(manifest, store) / "index.jsonl"
    assert sha256(index.read_bytes()).hexdigest() == manifest.index_sha256
    found = list(read_index(index.read_text().splitlines()))
    assert [(s.split, s.id) for s in found] == sorted((s.split, s.id) for s in found)
    assert {sample.shard for sample in found} == set(range(len(manifest.shards)))
    for sample in found:
        name = sample.id.removeprefix("2012_")
        shard = manifest.shards[sample.shard].name
        with TarReader(folder(manifest, store) / "shards" / shard) as tar:
            assert tar.read(*sample.photo) == jpeg(name)
            assert decode_mask(tar.read(*sample.mask), name).shape == (sample.height, sample.width)


def test_pixels_are_counted_by_class(archive: Path, store: Store, spool: Path) -> None:
    _, manifest = prepared(store, spool, archive)
    for split, names in (("train", TRAIN), ("val", VAL)):
        drawn = np.concatenate([mask_of(name).ravel() for name in names])
        expected = [int((drawn == index).sum()) for index in (*range(len(VOC_CLASSES)), 255)]
        assert list(manifest.pixels[split]) == expected
        assert expected[-1] > 0
    assert set(manifest.pixels["test"]) == {0}


def test_the_digest_is_that_of_what_the_loader_returns(
    archive: Path, store: Store, spool: Path
) -> None:
    _, manifest = prepared(store, spool, archive)
    digest = sha256()
    for split in ("train", "val"):
        for sample in Dataset(folder(manifest, store), split):
            digest.update(sample_digest(*sample))
    assert manifest.digest == digest.hexdigest()


def test_the_digest_knows_every_part_of_a_sample() -> None:
    photo, mask = decode_photo(jpeg("a"), "a"), mask_of("a")
    first = sample_digest("a", photo, mask)
    assert sample_digest("a", photo.copy(), mask.copy()) == first
    others = [
        sample_digest("b", photo, mask),
        sample_digest("a", photo ^ 1, mask),
        sample_digest("a", photo, mask ^ 1),
        sample_digest("a", photo.reshape(16, 12, 3), mask.reshape(16, 12)),
    ]
    assert len({first, *others}) == 5


def test_threads_and_shard_sizes_do_not_change_the_content(
    archive: Path, store: Store, spool: Path
) -> None:
    ways = [{"threads": 1}, {"threads": 4, "shard_bytes": 1}, {"threads": 3, "shard_bytes": 4000}]
    built = [prepared(store, spool, archive, **way)[1] for way in ways]
    assert [len(manifest.shards) for manifest in built] == [1, 8, 3]
    assert len({manifest.digest for manifest in built}) == 1
    elsewhere = Store.open(str(spool / "elsewhere"))
    again = prepared(elsewhere, spool, archive, threads=4)[1]
    assert again == built[0]


def test_the_same_input_is_not_built_twice(archive: Path, store: Store, spool: Path) -> None:
    separation, manifest = prepared(store, spool, archive)
    archives = extracted(store, spool, archive)
    archive.unlink()  # whoever wanted to build it again would have to read this
    again = build_dataset(separation, archives, store, spool, classes=VOC_CLASSES)
    assert again == (manifest, True)


def test_other_settings_are_another_dataset(archive: Path, store: Store, spool: Path) -> None:
    first = prepared(store, spool, archive)[1]
    smaller = prepared(store, spool, archive, max_side=8)[1]
    fewer = prepared(store, spool, archive, classes=VOC_CLASSES[:5])[1]
    assert len({first.key, smaller.key, fewer.key}) == 3
    assert smaller.digest != first.digest == fewer.digest
    assert len(fewer.pixels["train"]) == 6


def test_the_manifest_is_written_last(archive: Path, store: Store, spool: Path) -> None:
    """Whoever dies in the middle leaves no dataset, and the next one builds it whole."""
    archives = extracted(store, spool, archive)
    separation, _ = separate(archives, store, spool)

    def die(done: float, total: float | None, note: str = "") -> None:
        if done == 5:
            raise KeyboardInterrupt

    options = {"classes": VOC_CLASSES, "shard_bytes": 1}
    with pytest.raises(KeyboardInterrupt):
        build_dataset(separation, archives, store, spool, report=die, **options)
    left = [entry.key for entry in store.list("datasets")]
    assert left == [f"datasets/{left[0].split('/')[1]}/{name}" for name in (
        *(f"parts/{number:05d}.json" for number in range(4)),
        *(f"shards/{number:05d}.tar" for number in range(4)),
    )]  # fmt: skip
    assert not [path for path in spool.iterdir() if path.is_dir()]

    manifest, reused = build_dataset(separation, archives, store, spool, **options)
    assert not reused
    assert len(samples(manifest, store)) == 8
    assert not list(store.list(f"{dataset_prefix(manifest.key)}/parts"))
    files = [path for path in folder(manifest, store).rglob("*") if path.is_file()]
    newest = max(files, key=lambda path: path.stat().st_mtime_ns)
    assert newest.name == "manifest.json"


@pytest.mark.parametrize("harmed", ["parts/00001.json", "shards/00001.tar"])
def test_the_next_attempt_builds_only_what_is_missing_or_damaged(
    archive: Path, store: Store, spool: Path, harmed: str
) -> None:
    archives = extracted(store, spool, archive)
    separation, _ = separate(archives, store, spool)
    options = {"classes": VOC_CLASSES, "shard_bytes": 1}

    def die(done: float, *_: object) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_dataset(separation, archives, store, spool, report=die, **options)
    (found,) = (spool.parent / "store" / "datasets").iterdir()
    shards = [found / f"shards/{number:05d}.tar" for number in range(4)]
    (found / harmed).write_bytes((found / harmed).read_bytes()[:-9])
    before = [shard.stat().st_mtime_ns for shard in shards]
    manifest, _ = build_dataset(separation, archives, store, spool, **options)
    kept = [shard.stat().st_mtime_ns == time for shard, time in zip(shards, before, strict=True)]
    assert kept == [True, False, True, True]
    elsewhere = Store.open(str(spool / "elsewhere"))
    assert build_dataset(separation, archives, elsewhere, spool, **options)[0] == manifest


@pytest.mark.parametrize("lost", ["index.jsonl", "shards/00001.tar"])
def test_a_dataset_that_lost_something_is_built_again(
    archive: Path, store: Store, spool: Path, lost: str
) -> None:
    _, manifest = prepared(store, spool, archive, shard_bytes=4000)
    store.delete(f"{dataset_prefix(manifest.key)}/{lost}")
    assert prepared(store, spool, archive, shard_bytes=4000)[1] == manifest
    assert len(samples(manifest, store)) == 8


def test_a_shard_that_was_cut_is_built_again(archive: Path, store: Store, spool: Path) -> None:
    _, manifest = prepared(store, spool, archive)
    store.put(f"{dataset_prefix(manifest.key)}/shards/00000.tar", b"short")
    assert prepared(store, spool, archive)[1] == manifest
    assert len(samples(manifest, store)) == 8


def test_progress_is_reported(archive: Path, store: Store, spool: Path) -> None:
    told: list[tuple[float, float | None]] = []
    prepared(store, spool, archive, report=lambda done, total, note="": told.append((done, total)))
    assert told == [(done, 8) for done in range(1, 9)]


def test_messages_name_the_archive_as_the_user_knows_it(
    tmp_path: Path, store: Store, spool: Path
) -> None:
    path = devkit(tmp_path / "mine.tar", masks={"two": palette_png(mask_of("two") | 64)})
    with pytest.raises(InputError, match=r"mine.tar: VOCdevkit/.*/two.png has the class index 64"):
        prepared(store, spool, path)
    assert not [entry for entry in store.list("datasets") if entry.key.endswith(".json")]


def test_the_manifest_tells_where_it_comes_from(
    tmp_path: Path, archive: Path, store: Store, spool: Path
) -> None:
    other = devkit(tmp_path / "other.tar", train=("t0", "x"), val=("y",), unlisted=("z",))
    _, manifest = prepared(store, spool, archive, other)
    archives = extracted(store, spool, archive, other)
    assert list(manifest.archives) == sorted(a.sha256 for a in archives)
    assert manifest.left_out["unlisted"] == manifest.left_out["duplicate"] == 1
    stored = store.get(f"{dataset_prefix(manifest.key)}/manifest.json")
    assert stored is not None
    assert json.loads(stored)["classes"] == list(VOC_CLASSES)


def test_a_tar_that_changes_while_it_is_read_becomes_no_dataset(
    tmp_path: Path, archive: Path, store: Store, spool: Path
) -> None:
    """A dataset is named by its archives' hashes, so it must hold what they hold."""
    archives = extracted(store, spool, archive)
    separation, _ = separate(archives, store, spool)
    first = archive.read_bytes()

    def overwrite(*_: object) -> None:
        with archive.open("r+b") as file:
            file.write(first)
        os.utime(archive, (0, 0))  # clocks of file systems are coarse

    options = {"classes": VOC_CLASSES}
    with pytest.raises(InputError, match="voc.tar changed while it was read; run it again"):
        build_dataset(separation, archives, store, spool, report=overwrite, **options)
    assert not [entry for entry in store.list("datasets") if entry.key.endswith("manifest.json")]
    again = extracted(store, spool, archive)
    assert build_dataset(separation, again, store, spool, **options)[0].counts["train"] == 6


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_of_nothing_but_void_is_refused(
    tmp_path: Path, store: Store, spool: Path, split: str
) -> None:
    names = {"train": ("one", "two"), "val": ("three",)}[split]
    void = dict.fromkeys(names, palette_png(np.full_like(mask_of(), 255)))
    path = devkit(tmp_path / "a.tar", masks=void)
    with pytest.raises(InputError, match=rf"{split} masks of .*a.tar have no pixel but void \(255"):
        prepared(store, spool, path)
    assert not [entry for entry in store.list("datasets") if entry.key.endswith("manifest.json")]
    other = "val" if split == "train" else "train"
    assert prepared(store, spool, path, needed=(other,))[1].counts[split] == len(names)
    with pytest.raises(InputError, match=f"{split} masks"):  # though it is there by now
        prepared(store, spool, path)


def test_a_mask_of_nothing_but_void_is_taken(tmp_path: Path, store: Store, spool: Path) -> None:
    void = {"one": palette_png(np.full_like(mask_of(), 255))}
    _, manifest = prepared(store, spool, devkit(tmp_path / "a.tar", masks=void))
    assert manifest.counts["train"] == 2


TWO = ("background", "thing")


def test_white_that_would_be_void_is_refused_with_the_cure(
    tmp_path: Path, store: Store, spool: Path
) -> None:
    """Such a net would learn that everything is background, and score well."""
    path = two_folders(tmp_path / "a.tar")
    told = r"masks of .*a.tar hold only 0 and 255.*of thing; if white.*--layout mask_values=0,255\."
    for needed in (("train", "val"), ("val",)):
        with pytest.raises(InputError, match=told):
            prepared(store, spool, path, classes=TWO, needed=needed)
    assert not [entry for entry in store.list("datasets") if entry.key.endswith("manifest.json")]
    for values in ((0, 255), (255, 0)):
        layout = Layout(mask_values=values)
        _, manifest = prepared(store, spool, path, classes=TWO, layout=layout)
        assert manifest.pixels["train"][2] == 0
        assert all(manifest.pixels["train"][:2])


def test_a_class_that_no_photo_shows_is_no_reason_to_refuse(
    tmp_path: Path, store: Store, spool: Path
) -> None:
    """Only where white is void and there is nothing else does it look like a mistake."""
    path = two_folders(tmp_path / "a.tar")
    three = prepared(store, spool, path, classes=(*TWO, "other"))[1]
    assert three.pixels["train"][1] == three.pixels["train"][2] == 0
    black = {f"masks/{name}.png": palette_png(mask_of() * 0) for name in "abcde"}
    path = two_folders(tmp_path / "black.tar", files=black)
    assert prepared(store, spool, path, classes=TWO)[1].pixels["train"][1:] == (0, 0)
    mapped = Layout(mask_values=(0, 7))
    path = two_folders(tmp_path / "a.tar", files={"masks/a.png": black_and_white()})
    assert prepared(store, spool, path, classes=TWO, layout=mapped)[1].pixels["train"][1] == 0


def test_every_class_needs_a_value(tmp_path: Path, store: Store, spool: Path) -> None:
    path = two_folders(tmp_path / "a.tar")
    with pytest.raises(InputError, match="There are 2 classes .*names 3 values; give one for each"):
        prepared(store, spool, path, classes=TWO, layout=Layout(mask_values=(0, 1, 255)))


def test_other_mask_values_are_another_dataset(tmp_path: Path, store: Store, spool: Path) -> None:
    path = two_folders(tmp_path / "a.tar")
    (sep, one), (same, other) = (
        prepared(store, spool, path, classes=TWO, layout=Layout(mask_values=values))
        for values in ((0, 255), (255, 0))
    )
    assert sep == same  # the pixels change nothing about who judges
    assert one.key != other.key
    assert one.pixels["train"][:2] == other.pixels["train"][1::-1]
