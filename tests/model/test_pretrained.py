"""Pretrained weights come from the cache, a server or a mirror, verified, or the error says how."""

import hashlib
import io
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from model import encoders, pretrained
from model.errors import InputError
from model.nets import build_net
from model.nets.resnet_unet import ResNetUNet
from model.nets.vgg_unet import VGGUNet
from model.pretrained import MIRROR, load_pretrained
from model.train import train
from servers.file_server import FileServer
from tiny import RECIPE, write_job, write_recipe


class File(NamedTuple):
    """A file of weights whose name carries its hash, and where it is said to be."""

    name: str
    content: bytes
    base: str = "http://127.0.0.1:1"

    @property
    def url(self) -> str:
        return f"{self.base}/{self.name}"

    def at(self, base: str) -> "File":
        return self._replace(base=base)

    def put(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / self.name).write_bytes(self.content)
        return folder


def weights_file(state: object, stem: str = "net") -> File:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    return File(f"{stem}-{hashlib.sha256(content).hexdigest()[:8]}.pth", content)


def linear_file() -> File:
    return weights_file({"weight": torch.tensor([[7.0]]), "fc.weight": torch.ones(3)})


def linear() -> nn.Linear:
    return nn.Linear(1, 1, bias=False)


def load(file: File) -> float:
    module = linear()
    load_pretrained(file, module, leave_out="fc.")
    return module.weight.item()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's cache, empty, and no proxy between us and our own servers."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as running:
        yield running


def test_fetched_once_and_then_from_the_cache(server: FileServer, cache: Path) -> None:
    file = linear_file().at(server.url)
    server.files[f"/{file.name}"] = file.content
    assert load(file) == 7
    assert [path.name for path in cache.iterdir()] == [file.name]
    assert load(file) == 7
    assert len(server.requests) == 1


def test_cached_file_needs_no_server(cache: Path) -> None:
    file = linear_file()
    file.put(cache)
    assert load(file) == 7


@pytest.mark.parametrize("form", ["http", "file", "folder"])
def test_mirror(
    form: str, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    file = linear_file()
    folder = file.put(tmp_path / "my mirror")
    server.files[f"/weights/{file.name}"] = file.content
    bases = {"http": f"{server.url}/weights/", "file": folder.as_uri(), "folder": str(folder)}
    monkeypatch.setenv(MIRROR, bases[form])
    assert load(file) == 7
    assert (cache / file.name).read_bytes() == file.content


def test_damaged_cache_is_named_and_kept(cache: Path) -> None:
    file = linear_file()
    damaged = file._replace(content=file.content[:-1])
    damaged.put(cache)
    with pytest.raises(InputError, match=rf"{file.name} is damaged.*Delete it"):
        load(file)
    assert (cache / file.name).read_bytes() == damaged.content


def test_a_folder_in_its_place_is_named(cache: Path) -> None:
    file = linear_file()
    (cache / file.name).mkdir(parents=True)
    with pytest.raises(InputError, match="is damaged"):
        load(file)


def test_an_answer_without_end_is_left(
    server: FileServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = linear_file()
    monkeypatch.setattr(pretrained, "_LARGEST", len(file.content) - 1)
    server.files[f"/{file.name}"] = file.content
    with pytest.raises(InputError, match="does not end"):
        load(file.at(server.url))
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("mirror", ["http://[bad/", "~nobody-of-that-name/weights"])
def test_a_mirror_that_is_nothing(mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MIRROR, mirror)
    with pytest.raises(InputError, match="neither a folder nor a URL"):
        load(linear_file())


def test_what_cannot_be_had(server: FileServer, cache: Path) -> None:
    file = linear_file().at(server.url)
    with pytest.raises(InputError) as caught:
        load(file)
    for part in (file.name, str(cache), file.url, "404", MIRROR, "--set pretrained=false"):
        assert part in str(caught.value)
    assert not list(cache.iterdir())


def test_nobody_listens(cache: Path) -> None:
    with pytest.raises(InputError, match=r"neither in .* nor at http://127.0.0.1:1/.*refused"):
        load(linear_file())
    assert not list(cache.iterdir())


def test_other_content_under_that_name(server: FileServer, cache: Path) -> None:
    file = linear_file().at(server.url)
    server.files[f"/{file.name}"] = file.content + b"."
    with pytest.raises(InputError, match="its sha256 is another"):
        load(file)
    assert not list(cache.iterdir())


def test_connection_that_breaks(server: FileServer, cache: Path) -> None:
    file = linear_file().at(server.url)
    server.files[f"/{file.name}"] = file.content
    server.cuts.append(100)
    with pytest.raises(InputError, match="Put the file into"):
        load(file)
    assert not list(cache.iterdir())
    assert load(file) == 7


def test_server_that_falls_silent(
    server: FileServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "_TIMEOUT", 0.1)
    file = linear_file().at(server.url)
    server.files[f"/{file.name}"] = file.content
    server.pause_at = 0
    with pytest.raises(InputError, match="timed out"):
        load(file)
    assert not list(cache.iterdir())


@pytest.mark.parametrize(
    "mirror", ["ftp://host/x", "http://me:s3cret@host/x", "https://host/x?token=s3cret"]
)
def test_mirror_of_another_kind(mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MIRROR, mirror)
    with pytest.raises(InputError, match=f"{MIRROR} must be a folder") as caught:
        load(linear_file())
    assert "s3cret" not in str(caught.value)


def test_mirror_that_is_no_url(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MIRROR, f"{server.url}/my weights")
    with pytest.raises(InputError, match="Put the file into"):
        load(linear_file())


class Bomb:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("exploded"),)  # type: ignore[return-value]


@pytest.mark.parametrize(
    "state", [{"weight": torch.ones(2, 2)}, {"fc.weight": torch.ones(1)}, [1], {"weight": Bomb()}]
)
def test_file_of_something_else(
    state: object, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = weights_file(state)
    file.put(cache)
    with pytest.raises(InputError, match=f"{file.name} does not hold weights that fit"):
        load(file)
    assert not Path("exploded").exists()


def test_others_may_read_the_cache(server: FileServer, cache: Path) -> None:
    file = linear_file().at(server.url)
    server.files[f"/{file.name}"] = file.content
    load(file)
    assert (cache / file.name).stat().st_mode & stat.S_IRGRP


def classifier_file(encoder: encoders.Encoder, stem: str) -> tuple[File, dict[str, Tensor]]:
    """Weights as torchvision has them, the classifier's among them; and without those."""
    state = {key: torch.full_like(value, 0.5) for key, value in encoder.state_dict().items()}
    classifier = {f"{encoder.classifier}weight": torch.ones(2)}
    return weights_file(state | classifier, stem), state


@pytest.mark.parametrize(("net", "encoder"), [("resnet_unet", "resnet18"), ("vgg_unet", "vgg11")])
def test_a_net_starts_from_its_encoders_weights(
    net: str, encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPE.override(
        {"net": net, "encoder": encoder, "pretrained": True, "width": None, "depth": None}
    )
    # Building needs no file: a checkpoint brings its own weights.
    built = build_net(recipe, 2)
    assert isinstance(built, ResNetUNet | VGGUNet)
    file, state = classifier_file(built.encoder, encoder)
    monkeypatch.setitem(encoders.WEIGHTS, encoder, file)
    with pytest.raises(InputError, match=file.name):
        built.load_pretrained()
    monkeypatch.setenv(MIRROR, str(file.put(tmp_path / "mirror")))
    head = built.head.weight.clone()
    built.load_pretrained()
    loaded = built.encoder.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    assert torch.equal(built.head.weight, head)


def test_training_begins_with_them_where_the_recipe_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = weights_file({}, "resnet18")  # which nobody has
    monkeypatch.setitem(encoders.WEIGHTS, "resnet18", file)
    job = write_job(tmp_path, net="resnet_unet", encoder="resnet18", depth=None, epochs=1)
    assert train(job, run_id="from scratch")
    shutil.rmtree(job / "out")
    changes = {"net": "resnet_unet", "encoder": "resnet18", "depth": None, "width": None}
    write_recipe(job, **changes, pretrained=True)
    with pytest.raises(InputError, match=file.name):
        train(job, run_id="pretrained")
