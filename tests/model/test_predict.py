"""Predicting photos: what is found, what is written, and what is wrong with one of them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor, nn

from checkpoints import describe
from model import checkpoint
from model.device import default_threads, usable_cores
from model.errors import InputError, TrainingError
from model.images import Image, encode_jpeg, encode_png
from model.inference import Predictor
from model.nets import build_net
from model.palette import voc_palette
from model.photos import Found, Photos, read_photo
from model.predict import Summary, main, painted, predict
from servers.file_server import FileServer
from small_disk import Disk
from tiny import RECIPE, labelled

REPOSITORY = Path(__file__).parents[2]


class ByColour(nn.Module):
    """Knows the classes of `tiny` by heart: the brighter channel says which."""

    def forward(self, images: Tensor) -> Tensor:
        red, green = images[:, 0], images[:, 1]
        return torch.stack([torch.full_like(red, 0.5), red - green, green - red], 1)


def run(paths: list[Path | str], out: Path, **options: bool) -> Summary:
    predictor = Predictor.of(ByColour().eval(), RECIPE, torch.device("cpu"))
    return predict(predictor, describe(1), map(str, paths), out, **options)  # type: ignore[arg-type]


def photo(position: int = 0, height: int = 12, width: int = 20) -> Image:
    return labelled(position, height, width)[0]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FileServer() as server:
        yield server


def put(path: Path, position: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = photo(position)
    path.write_bytes(encode_png(pixels) if path.suffix == ".png" else encode_jpeg(pixels))
    return path


def below(out: Path) -> list[str]:
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def targets(paths: list[Path | str], out: Path) -> list[str]:
    return [str(found.target) for found in Photos(map(str, paths), out)]


# What is written


def test_a_mask_holds_indices_and_shows_the_colours_of_voc(tmp_path: Path) -> None:
    source, out = put(tmp_path / "a.png", 1), tmp_path / "out"
    summary = run([source], out)
    assert below(out) == ["a.png"]
    picture = PIL.Image.open(out / "a.png")
    indices = np.asarray(picture)
    expected = labelled(1, 12, 20)[1]
    assert picture.mode == "P"
    np.testing.assert_array_equal(indices[1:], expected[1:])  # the first row is void there
    np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), voc_palette()[indices])
    assert summary.photos == 1
    assert summary.shares["green"] == pytest.approx((indices == 2).mean())
    assert summary.shares["red"] == 0


def test_probabilities_and_overlay_are_written_when_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run([put(tmp_path / "a.b.png", 1)], out, overlay=True, probabilities=True)
    assert below(out) == ["a.b.npy", "a.b.overlay.jpg", "a.b.png"]
    probabilities = np.load(out / "a.b.npy")
    assert probabilities.dtype == np.float16
    assert probabilities.shape == (3, 12, 20)
    np.testing.assert_allclose(probabilities.sum(0, dtype=np.float32), 1, atol=2e-3)
    np.testing.assert_array_equal(probabilities.argmax(0), PIL.Image.open(out / "a.b.png"))
    assert PIL.Image.open(out / "a.b.overlay.jpg").size == (20, 12)


def test_an_overlay_leaves_the_background_alone_and_rims_the_classes() -> None:
    pixels = np.full((40, 40, 3), 100, np.uint8)
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 10:30] = 1
    over = painted(pixels, mask)
    assert (over[mask == 0] == 100).all()
    assert tuple(over[10, 10]) == (128, 0, 0)
    assert tuple(over[20, 20]) == (114, 50, 50)


def test_what_was_there_is_overwritten(tmp_path: Path) -> None:
    source, out = put(tmp_path / "a.png"), tmp_path / "out"
    run([source], out)
    put(source, 1)
    run([source], out)
    assert 2 in np.asarray(PIL.Image.open(out / "a.png"))


# What is found


def test_a_folder_is_searched_and_its_folders_are_kept(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for name in ("b.jpg", "a.png", "x/a.jpg", "x/y/a.JPEG"):
        put(photos / name)
    for name in ("notes.txt", "._a.jpg", ".thumbs/a.jpg"):
        put(photos / name)
    out = tmp_path / "out"
    assert targets([photos], out) == ["a", "b", "x/a", "x/y/a"]
    assert run([photos], out).photos == 4
    assert below(out) == ["a.png", "b.png", "x/a.png", "x/y/a.png"]


def test_results_are_no_photos(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    out = tmp_path / "out"
    for _ in range(2):
        assert run([tmp_path], out).photos == 1
    assert targets([f"{tmp_path}/**/*.png"], out) == ["a"]
    for inside in (out, out / "a.png"):
        with pytest.raises(InputError, match="where the outputs go"):
            run([inside], out)


def test_urls(tmp_path: Path, server: FileServer) -> None:
    server.files |= {"/x/a.jpg": encode_jpeg(photo()), "/y/b%20c.jpg": encode_jpeg(photo())}
    out = tmp_path / "out"
    assert run([f"{server.url}/x/a.jpg?token=SECRET"], out).photos == 1
    assert below(out) == ["a.png"]
    urls: list[Path | str] = [f"{server.url}/x/a.jpg", f"{server.url}/y/b%20c.jpg"]
    assert targets(urls, out) == ["x/a", "y/b c"]
    mixed = targets([put(tmp_path / "p/a.jpg"), f"{server.url}/x/a.jpg"], out)
    assert mixed == ["a", f"{server.url.partition('//')[2].replace(':', '_')}/x/a"]
    outward = [f"{server.url}/../../etc/a.jpg", f"{server.url}/x/./a.jpg"]
    assert targets([*outward], out) == ["etc/a", "x/a"]


def test_a_url_that_fails_is_named_without_its_secrets(tmp_path: Path, server: FileServer) -> None:
    heard: list[str] = []
    url = f"{server.url.replace('//', '//me:SECRET@')}/none.jpg?token=SECRET"
    predictor = Predictor.of(ByColour(), RECIPE, torch.device("cpu"))
    summary = predict(predictor, describe(1), [url], tmp_path, complain=heard.append)
    assert summary.failed == (f"{server.url}/none.jpg",)
    why = "does not exist, or its server does not give it; check its name."
    assert heard == [f"{server.url}/none.jpg {why}"]


@pytest.mark.parametrize("path", ["nowhere", "*.jpg", "https://example.com/", "empty"])
def test_nothing_to_predict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no photo"):
        run([path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


# What is wrong with some


def test_a_broken_photo_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    heard: list[str] = []
    done: list[tuple[int, int]] = []
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"):
        put(tmp_path / name)
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-200])  # cut short
    (tmp_path / "d.jpg").write_bytes(b"")
    predictor = Predictor.of(ByColour(), RECIPE, torch.device("cpu"))
    summary = predict(
        predictor,
        describe(1),
        [str(tmp_path)],
        tmp_path / "out",
        report=lambda *now: done.append(now),
        complain=heard.append,
    )
    assert below(tmp_path / "out") == ["a.png", "c.png", "e.png"]
    assert (summary.photos, summary.failures) == (3, 2)
    assert summary.failed == (f"{tmp_path}/b.jpg", f"{tmp_path}/d.jpg")
    assert [name in said for name, said in zip(("b.jpg", "d.jpg"), heard, strict=True)] == [
        True
    ] * 2
    assert done == [(i, 5) for i in range(1, 6)]


def test_a_photo_that_is_gone_before_its_turn_is_no_photo_predicted(tmp_path: Path) -> None:
    for number in range(20):
        put(tmp_path / f"{number:02d}.jpg")
    heard: list[int] = []

    def report(done: int, _: int) -> None:
        heard.append(done)
        for number in range(15, 20):
            (tmp_path / f"{number}.jpg").unlink(missing_ok=True)

    predictor = Predictor.of(ByColour(), RECIPE, torch.device("cpu"))
    summary = predict(predictor, describe(1), [str(tmp_path)], tmp_path / "out", report=report)
    assert summary.photos == len(below(tmp_path / "out"))
    assert summary.photos + summary.failures == len(heard)


def test_a_thousand_failures_are_named_and_the_others_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(found: Found) -> Image:
        raise InputError(f"{found.name} is damaged.")

    monkeypatch.setattr("model.predict.read_photo", broken)
    for number in range(1005):
        (tmp_path / f"{number:04d}.jpg").touch()
    summary = run([tmp_path], tmp_path / "out")
    assert (summary.photos, summary.failures, len(summary.failed)) == (0, 1005, 1000)
    assert set(summary.failed) < {str(path) for path in tmp_path.glob("*.jpg")}
    assert "; 1,005 could not be predicted" in summary.in_words()


@pytest.mark.parametrize(
    ("fit", "window", "cure"),
    [
        ("crop", None, "set a --window, such as 16"),
        ("crop", 64, "set a smaller --window"),
        ("resize", None, "scale it down"),
    ],
)
def test_a_photo_that_is_too_large_is_named_with_a_cure_that_the_recipe_takes(
    tmp_path: Path, fit: str, window: int | None, cure: str
) -> None:
    class Greedy(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.empty(1 << 50)

    heard: list[str] = []
    source = put(tmp_path / "a.png")
    recipe = RECIPE.override({"fit": fit})
    predictor = Predictor.of(Greedy(), recipe, torch.device("cpu"), window=window)
    out = tmp_path / "out"
    summary = predict(predictor, describe(1), [str(source)], out, complain=heard.append)
    assert summary.failures == 1
    assert heard == [f"{source} is too large for the memory; {cure}."]


# How much is done at once, and how it ends


def test_only_a_few_photos_are_in_memory_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        put(tmp_path / "photos" / f"{number:02d}.png")
    out, ahead = tmp_path / "out", []

    class Counting(nn.Module):
        seen = 0

        def forward(self, images: Tensor) -> Tensor:
            self.seen += 1
            ahead.append(reads - self.seen)
            return ByColour()(images)

    reads = 0

    def counted(found: object) -> Image:
        nonlocal reads
        reads += 1
        return read_photo(found)  # type: ignore[arg-type]

    monkeypatch.setattr("model.predict.read_photo", counted)
    predictor = Predictor.of(Counting(), RECIPE, torch.device("cpu"))
    predict(predictor, describe(1), [str(tmp_path / "photos")], out)
    assert len(below(out)) == 40
    assert max(ahead) <= 10  # four that are read, four that wait for a net, and one on each way
    assert max(ahead) >= 1  # and they are read in advance


def test_nets_share_the_cores_and_leave_torch_as_it_was(tmp_path: Path) -> None:
    seen: set[int] = set()

    class Asking(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.add(torch.get_num_threads())
            return ByColour()(images)

    before = default_threads() + 1
    torch.set_num_threads(before)
    try:
        predictor = Predictor.of(Asking(), RECIPE, torch.device("cpu"))
        predict(predictor, describe(1), [str(put(tmp_path / "a.png"))], tmp_path / "out")
        assert seen == {max(1, default_threads() // min(4, usable_cores()))}
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(default_threads())


def test_a_full_disk_ends_it_and_leaves_nothing_half(disk: Disk, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(encode_png(noise))
    out = disk.folder / "out"
    with pytest.raises(TrainingError, match="is full") as failed:
        run([tmp_path / f"{number}.png" for number in range(4)], out, probabilities=True)
    assert failed.value.cause == "STORE"
    for path in out.iterdir():
        assert not path.name.endswith(".part")
        if path.suffix == ".png":
            PIL.Image.open(path).load()


# The command line


@pytest.fixture(scope="module")
def blob(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    checkpoint.save(folder, describe(1), {"net": build_net(RECIPE, 3).state_dict()})
    return folder / "00000001" / checkpoint.BLOB


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["model.predict", *map(str, arguments)])
        return main(), *capsys.readouterr()

    return command


def test_command_line(
    blob: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    source, out = put(tmp_path / "a.jpg"), tmp_path / "out"
    options = ("--flip", "--window", 8, "--overlay", "--probabilities", "--device", "cpu")
    code, said, complaint = command(blob, source, "--out", out, *options)
    assert (code, complaint) == (0, "")
    assert said.startswith("1 photo in ")
    assert below(out) == ["a.npy", "a.overlay.jpg", "a.png"]
    (tmp_path / "b.jpg").write_bytes(b"no photo")
    code, said, complaint = command(blob, source, tmp_path / "b.jpg", "--out", out, "--json")
    assert code == 1
    summary = json.loads(said)
    assert (summary["photos"], summary["failed"]) == (1, [f"{tmp_path}/b.jpg"])
    assert summary["out"] == str(out)
    assert "b.jpg is damaged" in complaint


def test_command_line_with_windows_and_mirror_images(
    blob: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    source = put(tmp_path / "a.jpg")
    probabilities = []
    for number, options in enumerate([(), ("--flip",), ("--window", 8)]):
        out = tmp_path / f"out{number}"
        assert command(blob, source, "--out", out, "--probabilities", *options)[0] == 0
        probabilities.append(np.load(out / "a.npy"))
    assert not np.array_equal(probabilities[0], probabilities[1])
    assert not np.array_equal(probabilities[0], probabilities[2])


@pytest.mark.parametrize("wrong", ["nowhere.pt", "nowhere.jpg"])
def test_command_line_with_wrong_input(
    blob: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]], wrong: str
) -> None:
    path = tmp_path / wrong if wrong.endswith("pt") else blob
    code, said, complaint = command(path, tmp_path / "nowhere.jpg", "--out", tmp_path / "out")
    assert (code, said) == (2, "")
    assert wrong in complaint
    assert len(complaint.splitlines()) == 1


def test_interrupted_it_leaves_only_what_is_whole(blob: Path, tmp_path: Path) -> None:
    big = encode_jpeg(photo(height=600, width=800))
    photos, out = tmp_path / "photos", tmp_path / "out"
    put(photos / "0000.jpg").write_bytes(big)
    for number in range(1, 300):
        (photos / f"{number:04d}.jpg").hardlink_to(photos / "0000.jpg")
    (photos / "0005.jpg").unlink()
    (photos / "0005.jpg").touch()
    process = subprocess.Popen(
        [sys.executable, "-m", "model.predict", blob, photos, "--out", out, "--overlay"],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    assert "0005.jpg is damaged" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert "whole" in process.communicate(timeout=60)[1]
    assert process.returncode == 130
    written = sorted(out.iterdir())
    assert 10 <= len(written) < 598
    for path in written:
        assert path.suffix in (".png", ".jpg")
        PIL.Image.open(path).load()


def test_a_name_that_is_too_long_for_its_results_is_one_photo(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    put(photos / "a.jpg")
    put(photos / f"{'b' * 250}.jpg")
    put(photos / "c.jpg")
    summary = run([photos], out)
    assert (summary.photos, summary.failures) == (2, 1)
    assert below(out) == ["a.png", "c.png"]
