"""`voc-train predict`: photos in, masks out that this package itself can read."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from commands import VocTrain
from model.images import encode_jpeg
from pipeline.masks import read_mask
from servers.file_server import FileServer
from servers.rgw import RGW
from tiny import labelled


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """As many as before: prediction sets how many there are."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, name in enumerate(("a.jpg", "x/b.jpg")):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_jpeg(labelled(number, 20, 30)[0]))
    return tmp_path / "photos"


def test_masks_are_read_as_those_of_a_dataset_are(
    weights: Path, photos: Path, tmp_path: Path, voc_train: VocTrain
) -> None:
    out = tmp_path / "out"
    said = voc_train("predict", weights, photos, "--out", out, "--device", "cpu", "--overlay")
    assert said.code == 0
    assert said.out.startswith("2 photos in ")
    assert said.err.splitlines()[0] == "predict …"
    assert "2 photos to " in said.err
    for name in ("a", "x/b"):
        mask = read_mask((out / f"{name}.png").read_bytes(), 21, name, 1e6)
        assert mask.shape == (20, 30)
        assert (out / f"{name}.overlay.jpg").stat().st_size


def test_a_damaged_photo_is_named_and_fails_the_command(
    weights: Path, photos: Path, tmp_path: Path, voc_train: VocTrain
) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    said = voc_train("predict", weights, photos, "--out", tmp_path / "out", "--json")
    assert said.code == 1
    assert f"{photos}/broken.jpg is damaged" in said.err
    (line,) = said.out.splitlines()
    summary = json.loads(line)
    assert summary["photos"] == 2
    assert summary["failures"] == 1
    assert summary["failed"] == [f"{photos}/broken.jpg"]


@pytest.mark.parametrize("wrong", ["checkpoint", "photos", "window"])
def test_wrong_input(
    weights: Path, photos: Path, tmp_path: Path, voc_train: VocTrain, wrong: str
) -> None:
    checkpoint = tmp_path / "nowhere.pt" if wrong == "checkpoint" else weights
    path = tmp_path / "nowhere" if wrong == "photos" else photos
    window = ("--window", 0) if wrong == "window" else ()
    said = voc_train("predict", checkpoint, path, "--out", tmp_path / "out", *window)
    assert said.code == 2
    assert "nowhere" in said.err or "window of 0" in said.err
    assert not (tmp_path / "out").exists()


def test_urls(weights: Path, tmp_path: Path, voc_train: VocTrain, server: FileServer) -> None:
    server.files["/photos/c.jpg"] = encode_jpeg(labelled(0, 20, 30)[0])
    out = tmp_path / "out"
    assert voc_train("predict", weights, f"{server.url}/photos/c.jpg", "--out", out).code == 0
    assert [path.name for path in out.iterdir()] == ["c.png"]


def test_s3_is_read_as_everywhere_else(
    weights: Path, tmp_path: Path, voc_train: VocTrain, monkeypatch: pytest.MonkeyPatch, rgw: RGW
) -> None:
    for name, value in rgw.environment().items():
        monkeypatch.setenv(name, value)
    bucket, out = rgw.create_bucket("predict-photos"), tmp_path / "out"
    photo = encode_jpeg(labelled(0, 20, 30)[0])
    rgw.client().put_object(Bucket=bucket, Key="photos/c.jpg", Body=photo)
    said = voc_train("predict", weights, "s3://predict-photos/photos/c.jpg", "--out", out)
    assert said.code == 0, said.err
    assert [path.name for path in out.iterdir()] == ["c.png"]
