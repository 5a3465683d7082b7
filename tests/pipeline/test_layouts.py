"""Layouts: which mask belongs to which photo, in a devkit, in Carvana's and in any two folders."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from devkit import devkit, encoded, entry, extracted, jpeg, mask_of, palette_png, prepared
from folder_archives import binary, black_and_white, carvana, two_folders
from infra.stores import Store
from model.dataset import Dataset
from model.errors import InputError
from pipeline.dataset import dataset_prefix
from pipeline.layouts.layout import Layout
from pipeline.stages.separate import Separation, separate
from tars import pack

CARS = [f"{car}_{view:02}" for car in ("0ed69", "1ae8a", "2ea62") for view in (1, 5, 9)]


@pytest.fixture
def split(store: Store, spool: Path) -> Callable[..., Separation]:
    """Separate archives by a layout."""

    def split(*paths: Path, skip_missing: bool = False, **layout: object) -> Separation:
        found = extracted(store, spool, *paths)
        chosen = Layout.model_validate(layout)
        return separate(found, store, spool, layout=chosen, skip_missing=skip_missing)[0]

    return split


def matched(separation: Separation) -> dict[str, tuple[str, str]]:
    return {pair.id: (pair.photo_name, pair.mask_name) for pair in separation.pairs}


@pytest.mark.parametrize("root", ["", "kaggle/carvana/"])
@pytest.mark.parametrize("kind", ["auto", "carvana"])
def test_carvanas_photos_find_their_masks(
    split: Callable[..., Separation], tmp_path: Path, root: str, kind: str
) -> None:
    found = split(carvana(tmp_path / "cars.tar", CARS, root), kind=kind)
    assert matched(found) == {
        f"{root}{name}": (f"{root}train/{name}.jpg", f"{root}train_masks/{name}_mask.gif")
        for name in CARS
    }
    assert {pair.group for pair in found.pairs} == {"0ed69", "1ae8a", "2ea62"}


def test_carvanas_masks_hold_classes(tmp_path: Path, store: Store, spool: Path) -> None:
    path = carvana(tmp_path / "cars.tar", CARS)
    _, manifest = prepared(store, spool, path, classes=("background", "car"))
    folder = store.local_path(dataset_prefix(manifest.key))
    assert folder is not None
    for sample in [s for split in ("train", "val") for s in Dataset(folder, split)]:
        assert sample.mask.tolist() == binary(sample.id).tolist()


def test_real_carvana(real_data: Path, store: Store, spool: Path) -> None:
    """64 photos of 16 cars, each a quarter of a car."""
    classes = ("background", "car")
    path = real_data / "carvana-64.tar"
    separation, manifest = prepared(store, spool, path, classes=classes, max_side=64)
    assert manifest.counts == {"train": 60, "val": 4, "test": 0}
    cars = {
        split: {p.group for p in separation.pairs if p.split == split} for split in ("train", "val")
    }
    assert [len(cars["train"]), len(cars["val"])] == [15, 1]
    assert not cars["train"] & cars["val"]
    for split in cars:
        background, car, void = manifest.pixels[split]
        assert void == 0
        assert 0.1 < car / (background + car) < 0.4


def test_two_folders_of_black_and_white_masks(tmp_path: Path, store: Store, spool: Path) -> None:
    """What most people have: 0 is background, 255 the thing."""
    path = two_folders(tmp_path / "data.tar")
    values = Layout(mask_values=(0, 255))
    separation, manifest = prepared(store, spool, path, layout=values, classes=("no", "yes"))
    assert manifest.counts == {"train": 3, "val": 2, "test": 0}
    folder = store.local_path(dataset_prefix(manifest.key))
    assert folder is not None
    for sample in [s for split in ("train", "val") for s in Dataset(folder, split)]:
        assert sample.mask.tolist() == binary(sample.id).tolist()
    assert {pair.id for pair in separation.pairs} == set("abcde")


def test_folders_by_other_names_with_folders_inside(
    split: Callable[..., Separation], tmp_path: Path
) -> None:
    names = ("north/a", "north/b", "south/a", "c.d")
    path = two_folders(
        tmp_path / "data.tar", names, photos="set/imgs", masks="set/gt/x", suffix="_seg"
    )
    found = split(path, photos="imgs", masks="gt/x", mask_suffix="_seg")
    assert matched(found) == {
        f"set/{name}": (f"set/imgs/{name}.jpg", f"set/gt/x/{name}_seg.png") for name in names
    }
    assert matched(split(path, photos="set/imgs", masks="set/gt/x", mask_suffix="_seg")).keys() == {
        *names
    }


def test_several_pairs_of_folders_in_one_archive(
    split: Callable[..., Separation], tmp_path: Path
) -> None:
    more = {
        f"{root}/{file}": data
        for root in ("x", "y")
        for file, data in (
            ("images/a.JPG", jpeg(root)),
            ("masks/a.png", black_and_white()),
            ("images/bare.jpeg", jpeg()),
        )
    }
    found = split(two_folders(tmp_path / "data.tar", ("a",), files=more))
    assert matched(found).keys() == {"a", "x/a", "y/a"}
    assert found.unlabelled == 2


def test_archives_of_several_layouts(split: Callable[..., Separation], tmp_path: Path) -> None:
    """A photo that a devkit judges by does not train as a file in a folder."""
    found = split(
        devkit(tmp_path / "voc.tar"),
        carvana(tmp_path / "cars.tar", CARS),
        two_folders(tmp_path / "data.tar", files={"images/a.jpg": jpeg("three")}),
    )
    judged = next(pair for pair in found.pairs if pair.id == "2012_three")
    assert judged.split == "val"
    assert len(found.pairs) == 3 + len(CARS) + 4
    assert (found.withheld, found.duplicate) in {(1, 0), (0, 1)}  # as `a` would train or judge


def test_a_devkit_with_other_classes(tmp_path: Path, store: Store, spool: Path) -> None:
    classes = ("ground", "river", "road")
    masks = {name: palette_png(mask_of(name) % 3) for name in ("one", "two", "three")}
    path = devkit(tmp_path / "map.tar", masks=masks)
    _, manifest = prepared(store, spool, path, classes=classes)
    assert manifest.classes == classes
    assert all(manifest.pixels["train"][:3])
    values = {name: encoded(Image.fromarray(mask_of(name) % 3 * 7), "PNG") for name in masks}
    path = devkit(tmp_path / "values.tar", masks=values)
    same = prepared(store, spool, path, classes=classes, layout=Layout(mask_values=(0, 7, 14)))[1]
    assert same.digest == manifest.digest


def test_a_folder_inside_may_have_the_same_name(
    split: Callable[..., Separation], tmp_path: Path
) -> None:
    found = split(two_folders(tmp_path / "data.tar", ("images/a", "images/b")))
    assert matched(found).keys() == {"images/a", "images/b"}


def test_masks_without_a_photo_are_refused_unless_skipped(
    split: Callable[..., Separation], tmp_path: Path
) -> None:
    path = two_folders(tmp_path / "data.tar", files={"images/a.jpg": None, "images/b.jpg": None})
    with pytest.raises(InputError, match=r"data.tar has 2 masks without a photo: masks/a.png, mas"):
        split(path)
    found = split(path, skip_missing=True)
    assert matched(found).keys() == set("cde")
    assert found.missing == 2


def test_masks_that_are_named_otherwise_name_the_cure(
    split: Callable[..., Separation], tmp_path: Path
) -> None:
    path = two_folders(tmp_path / "data.tar", suffix="_seg")
    with pytest.raises(InputError, match="5 masks without a photo.*--layout mask_suffix="):
        split(path)
    plain = two_folders(tmp_path / "plain.tar")
    with pytest.raises(InputError, match="5 masks without a photo: masks/a.png"):
        split(plain, mask_suffix="_seg")


@pytest.mark.parametrize(
    ("file", "both"),
    [("images/a.png", "images/a.jpg and images/a.png"), ("masks/a.gif", "masks/a.png and masks/a")],
)
def test_two_files_of_one_name_are_refused(
    split: Callable[..., Separation], tmp_path: Path, file: str, both: str
) -> None:
    with pytest.raises(InputError, match=f"data.tar has both {both}.*too many"):
        split(two_folders(tmp_path / "data.tar", files={file: black_and_white()}))


def test_an_archive_of_no_layout_is_told_what_there_is(
    split: Callable[..., Separation], tmp_path: Path
) -> None:
    path = pack(tmp_path / "x.tar", {"pics/a.jpg": jpeg(), "labels/a.png": b"", "read.me": b""})
    with pytest.raises(InputError, match="x.tar has no ImageSets/.*train_masks/.*images and masks"):
        split(path)
    with pytest.raises(InputError, match="its top folders are labels, pics; name two folders"):
        split(path)
    flat = pack(tmp_path / "flat.tar", {"a.jpg": jpeg(), "a.png": b""})
    with pytest.raises(InputError, match="but no folder at all; name two"):
        split(flat)


@pytest.mark.parametrize(
    ("files", "layout", "message"),
    [
        ({"masks/a.jpg": b"x"}, {}, "has no mask in masks; masks are .png, .gif, .bmp"),
        ({}, {"kind": "folders"}, "has no folders images and masks side by side, but its top f"),
        ({}, {"kind": "carvana"}, "has no folders train and train_masks side by side"),
        ({}, {"kind": "devkit"}, "has no ImageSets/Segmentation/train.txt"),
        ({"masks/a.png": b"x"}, {"masks": "labels"}, "no folders images and labels side by side"),
        ({"train/a.jpg": b"x", "train_masks/a.gif": b"x"}, {}, "has no ImageSets"),
        ({"old_masks/a.png": b"x"}, {}, "has no ImageSets"),
        ({"x/masks/a.png": b"x"}, {}, "has no ImageSets"),
    ],
)
def test_folders_that_are_not_there(
    split: Callable[..., Separation],
    tmp_path: Path,
    files: dict[str, bytes],
    layout: dict[str, str],
    message: str,
) -> None:
    path = pack(tmp_path / "x.tar", {"images/a.jpg": jpeg("a"), "images/b.jpg": jpeg("b")} | files)
    with pytest.raises(InputError, match=message):
        split(path, **layout)


def test_a_list_makes_it_a_devkit_whatever_else_there_is(
    split: Callable[..., Separation], tmp_path: Path
) -> None:
    extra = [entry("images/a.jpg", jpeg("a")), entry("masks/a.png", black_and_white("a"))]
    found = split(devkit(tmp_path / "voc.tar", extra=extra))
    assert matched(found).keys() == {"2012_one", "2012_two", "2012_three"}


def test_messages_about_hostile_names_stay_short(
    split: Callable[..., Separation], tmp_path: Path
) -> None:
    long = "n" * 3000
    path = two_folders(tmp_path / "d.tar", files={f"masks/{long}{n}.png": b"x" for n in range(9)})
    with pytest.raises(
        InputError, match="9 masks without a photo: n+0.png, n+1.png, .*, …"
    ) as told:
        split(path)
    assert len(str(told.value)) < 800
    top = pack(tmp_path / "top.tar", {f"{n}{long}/a.jpg": b"x" for n in range(9)})
    with pytest.raises(InputError, match="its top folders are 0n+, 1n+, 2n+, …;") as told:
        split(top)
    assert len(str(told.value)) < 800
