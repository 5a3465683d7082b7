"""Which photos are found, what their outputs are called, and how their pixels are read."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from model.errors import InputError
from model.images import Image, encode_jpeg, encode_png
from model.photos import Photos, read_photo
from tiny import labelled


def photo() -> Image:
    return labelled(0, 12, 20)[0]


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(photo()) if path.suffix == ".png" else encode_jpeg(photo()))
    return path


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def targets(paths: list[Path | str], out: Path) -> list[str]:
    photos = Photos(map(str, paths), out)
    found = [str(found.target) for found in photos]
    assert photos.count() == len(found)
    return found


# What their outputs are called


def test_no_two_photos_have_one_target(tmp_path: Path) -> None:
    for name in ("x/a.jpg", "x/a.png", "x/b.jpg", "y/a.jpg"):
        put(tmp_path / name)
    out = tmp_path / "out"
    assert targets([tmp_path / "x"], out) == ["a.jpg", "a.png", "b"]
    assert targets([tmp_path / "x", tmp_path / "y"], out) == ["x/a.jpg", "x/a.png", "x/b", "y/a"]
    files: list[Path | str] = [tmp_path / "x/a.jpg", tmp_path / "x/a.png", tmp_path / "y/a.jpg"]
    assert targets(files, out) == ["x/a.jpg", "x/a.png", "y/a"]
    assert targets([tmp_path, tmp_path / "y", tmp_path / "x/a.jpg"], out) == [
        "x/a.jpg", "x/a.png", "x/b", "y/a",
    ]  # fmt: skip


def test_outputs_keep_the_whole_name_where_the_stem_would_be_anothers(tmp_path: Path) -> None:
    out = tmp_path / "out"
    touch(tmp_path / "upper", "a.JPG", "a.jpg", "b.JPG", "c.Jpg", "c.jPg")
    assert targets([tmp_path / "upper"], out) == ["a.JPG", "a.jpg", "b", "c.Jpg", "c.jPg"]
    touch(tmp_path / "double", "a.jpg", "a.png", "a.jpg.png", "b.jpg.png")
    assert targets([tmp_path / "double"], out) == ["a.jpg", "a.jpg.png", "a.png", "b.jpg"]
    files: list[Path | str] = [*(tmp_path / "double").iterdir()]
    assert sorted(targets(files, out)) == ["a.jpg", "a.jpg.png", "a.png", "b.jpg"]
    touch(tmp_path / "beside", "a.jpg", "a.txt", "a/b.jpg")  # which are not in the way
    assert targets([tmp_path / "beside"], out) == ["a", "a/b"]
    globs: list[Path | str] = [f"{tmp_path}/double/*.jpg", f"{tmp_path}/double/a.p*"]
    assert targets(globs, out) == ["a.jpg", "a.png"]


# What is found


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["a"]),
        ("*", ["a", "b", "x/a", "x/y/a"]),
        ("**/a.*", ["a", "x/a", "x/y/a"]),
        ("**", ["a", "b", "x/a", "x/y/a"]),
        ("x/[ab].jpg", ["a"]),
    ],
)
def test_globs(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    for name in ("a.jpg", "b.png", "x/a.jpg", "x/y/a.jpg", "notes.txt"):
        put(tmp_path / name)
    assert targets([f"{tmp_path}/{pattern}"], tmp_path / "out") == expected


def test_a_folder_comes_in_the_order_of_its_names_its_folders_last(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{number:03d}.jpg" for number in reversed(range(300))), "05/1.jpg")
    assert targets([tmp_path], tmp_path / "out") == [*(f"{n:03d}" for n in range(300)), "05/1"]


def test_globs_leave_hidden_names_to_those_who_ask_for_them(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", ".hidden/b.jpg", "x/.hidden/c.jpg", ".d.jpg")
    out = tmp_path / "out"
    assert targets([f"{tmp_path}/**/*.jpg"], out) == ["a"]
    assert targets([f"{tmp_path}/.h*/*.jpg"], out) == [".hidden/b"]
    assert targets([f"{tmp_path}/*/.hidden/*"], out) == ["x/.hidden/c"]


def test_a_glob_finds_each_photo_once(tmp_path: Path) -> None:
    touch(tmp_path, "x/x/x/a.jpg", "x/b.jpg")
    out = tmp_path / "out"
    for pattern in ("**/x/**", "**/**/*.jpg", "**/x/**/*.jpg"):
        assert targets([f"{tmp_path}/{pattern}"], out) == ["x/b", "x/x/x/a"], pattern
    assert targets([f"{tmp_path}/**/x/x/*.jpg"], out) == ["x/x/x/a"]


def test_links_lead_to_photos_and_never_in_circles(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.jpg", "in/x/b.jpg", "elsewhere/c.jpg")
    (tmp_path / "in/x/up").symlink_to(tmp_path / "in")
    (tmp_path / "in/self").symlink_to("self")
    (tmp_path / "in/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/d.jpg").symlink_to(tmp_path / "elsewhere/c.jpg")
    out = tmp_path / "out"
    assert targets([tmp_path / "in"], out) == ["a", "d", "x/b"]
    assert targets([f"{tmp_path}/in/**/*.jpg"], out) == ["a", "d", "x/b"]
    assert targets([f"{tmp_path}/in/link*"], out) == ["link/c"]
    assert targets([f"{tmp_path}/in/*/up/*.jpg"], out) == ["x/up/a", "x/up/d"]
    assert targets([tmp_path / "in/link"], out) == ["c"]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for number in range(20_000):
        (folder / f"IMG_{number:05d}.jpg").touch()
    return folder


@pytest.mark.parametrize("pattern", ["", "/*.jpg"], ids=["folder", "glob"])
def test_a_large_folder_takes_no_more_memory_than_a_small_one(many: Path, pattern: str) -> None:
    photos = Photos([f"{many}{pattern}"], many.parent / "out")
    tracemalloc.start()
    try:
        assert photos.count() == 20_000
        _, counting = tracemalloc.get_traced_memory()
        seen = iter(photos)
        assert len({next(seen).target for _ in range(5000)}) == 5000
        half_way = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    # pathlib has Python keep names, in a table that it makes anew now and then.
    held = half_way.filter_traces([tracemalloc.Filter(False, "*pathlib*")])
    iterating = sum(trace.size for trace in held.traces)
    assert max(counting, iterating) < 1e6  # the names alone would take that


@pytest.mark.parametrize("path", ["nowhere", "nowhere/*.jpg"])
def test_a_path_that_is_not_there_is_named(tmp_path: Path, path: str) -> None:
    with pytest.raises(InputError, match=r"no photo or folder .*nowhere"):
        Photos([f"{tmp_path}/{path}"], tmp_path / "out")


# How a photo is read


def saved(picture: PIL.Image.Image, path: Path, **options: object) -> Path:
    picture.save(path, **options)  # type: ignore[arg-type]
    return path


def pixels_of(path: Path) -> Image:
    (found,) = Photos([str(path)], path.parent / "out")
    return read_photo(found)


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, lambda p: p),
        (2, np.fliplr),
        (3, lambda p: np.rot90(p, 2)),
        (6, lambda p: np.rot90(p, -1)),
        (8, np.rot90),
    ],
)
def test_exif_turns_a_photo_upright(
    tmp_path: Path, orientation: int, turned: Callable[[Image], Image]
) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    path = saved(PIL.Image.fromarray(photo()), tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(pixels_of(path), turned(photo()))


def test_grey_deep_transparent_and_palette_photos(tmp_path: Path) -> None:
    grey = photo()[..., 0]
    threefold = np.repeat(grey[..., None], 3, 2)
    deep = PIL.Image.fromarray(grey.astype(np.uint16) << 8 | 0x7F)
    alpha = PIL.Image.fromarray(np.dstack([photo(), grey]))
    for number, (picture, expected) in enumerate(
        [
            (PIL.Image.fromarray(grey), threefold),
            (deep, threefold),
            (alpha, photo()),
            (PIL.Image.fromarray(grey).convert("P"), threefold),
        ]
    ):
        path = saved(picture, tmp_path / f"{number}.png")
        np.testing.assert_array_equal(pixels_of(path), expected, str(picture.mode))
