"""A net as ONNX computes what PyTorch computes, at any size, and says what it is."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from checkpoints import describe
from model import checkpoint
from model.errors import InputError, TrainingError
from model.export import Exported, export, main
from model.inference import Predictor
from model.loader import normalise
from model.nets import build_net
from tiny import CLASSES, RECIPE


def saved(folder: Path, **settings: object) -> Path:
    torch.manual_seed(1)
    recipe = RECIPE.override(settings)
    description = describe(1).model_copy(update={"recipe": recipe})
    net = build_net(recipe, 3)
    nn.init.normal_(net.head.weight)  # type: ignore[union-attr, arg-type]
    checkpoint.save(folder, description, {"net": net.state_dict()})
    return folder / "00000001" / checkpoint.BLOB


@pytest.mark.parametrize("normalised", ["imagenet", "per-image"])
def test_onnx_computes_what_pytorch_does(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    normalised: str,
) -> None:
    path = saved(tmp_path, normalise=normalised)
    monkeypatch.setattr(sys, "argv", ["model.export", str(path), "--json"])
    assert main() == 0
    out, err = capfd.readouterr()
    assert err == ""  # the exporter is talkative
    said = Exported.model_validate_json(out)
    assert said.bytes == said.onnx.stat().st_size
    assert 0 <= said.max_difference < 1e-3
    assert said.onnx == path.with_suffix(".onnx")
    assert not [p.name for p in path.parent.iterdir() if p.name.startswith(".")]

    predictor, description = Predictor.load(path, "cpu")
    session = onnxruntime.InferenceSession(said.onnx.read_bytes())
    random = np.random.default_rng(0)
    for number, height, width in ((1, 40, 31), (4, 7, 1), (2, 64, 64)):
        photos = random.integers(0, 256, (number, height, width, 3), np.uint8)
        planes = np.ascontiguousarray(photos.transpose(0, 3, 1, 2), np.float32)
        (logits,) = session.run(None, {"photos": planes})
        net = predictor.net(normalise(torch.from_numpy(planes), normalised)).detach()
        np.testing.assert_allclose(logits, net, atol=1e-3)
        for photo, ours in zip(photos, logits, strict=True):
            np.testing.assert_allclose(ours, predictor.logits(photo), atol=1e-3)

    metadata = {entry.key: entry.value for entry in onnx.load(said.onnx).metadata_props}
    assert json.loads(metadata["classes"]) == list(CLASSES)
    assert json.loads(metadata["recipe"]) == description.recipe.model_dump(mode="json")
    manifest = checkpoint.verified(path.parent)
    assert manifest
    assert metadata["weights_digest"] == manifest.weights_digest
    assert metadata["run_id"] == "run"


@pytest.mark.parametrize(
    "settings",
    [
        {"net": "simple_fcn", "width": 2, "depth": 2},
        {"net": "vgg_unet", "encoder": "vgg11", "width": 4},
        {"net": "resnet_unet", "encoder": "resnet18", "width": 4},
    ],
    ids=lambda settings: str(settings["net"]),
)
def test_every_net_can_be_exported(tmp_path: Path, settings: dict[str, object]) -> None:
    nothing = {"encoder": None, "width": None, "depth": None}
    path = saved(tmp_path, **(nothing | settings))
    exported = export(path)  # which compares it with PyTorch
    assert exported.largest_logit > 0.01
    photo = np.random.default_rng(0).integers(0, 256, (45, 70, 3), np.uint8)
    session = onnxruntime.InferenceSession(exported.onnx.read_bytes())
    planes = photo.transpose(2, 0, 1)[None].astype(np.float32)
    (logits,) = session.run(None, {"photos": planes})
    ours = Predictor.load(path, "cpu")[0].logits(photo)
    np.testing.assert_allclose(logits[0], ours, atol=1e-3 * exported.largest_logit)


@pytest.mark.parametrize(
    "settings",
    [
        {"net": "simple_fcn", "width": 2, "depth": 2, "encoder": None},
        {"net": "vgg_unet", "encoder": "vgg11", "width": 4, "depth": None, "fit": "resize"},
    ],
    ids=lambda settings: str(settings["net"]),
)
def test_the_free_sizes_are_called_n_h_and_w(tmp_path: Path, settings: dict[str, object]) -> None:
    file = export(saved(tmp_path, **settings)).onnx.read_bytes()
    session = onnxruntime.InferenceSession(file)
    (photos,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (photos.name, photos.shape) == ("photos", ["N", 3, "H", "W"])
    assert (logits.name, logits.shape) == ("logits", ["N", len(CLASSES), "H", "W"])
    graph = onnx.load_from_string(file).graph
    values = (*graph.input, *graph.output, *graph.value_info)
    named = {side.dim_param for value in values for side in value.type.tensor_type.shape.dim}
    assert named - {""} == {"N", "H", "W"}


def test_what_differs_from_pytorch_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torch.onnx.export

    def wrong(graph: nn.Module, *arguments: object, **options: object) -> object:
        bias = graph.net.head.bias  # type: ignore[union-attr]
        bias.data += 0.5  # type: ignore[union-attr, operator]
        try:
            return real(graph, *arguments, **options)  # type: ignore[arg-type]
        finally:
            # A copy, since the exported program may share the tensor.
            graph.net.head.bias = nn.Parameter(bias.detach() - 0.5)  # type: ignore[union-attr, operator]

    monkeypatch.setattr(torch.onnx, "export", wrong)
    path = saved(tmp_path)
    with pytest.raises(TrainingError, match=r"up to 0\.5 from PyTorch"):
        export(path, tmp_path / "out" / "net.onnx")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_opset_that_cannot_be_had_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="opset 9"):
        export(saved(tmp_path), opset=9)


def test_packages_that_are_missing_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match="pip install"):
        export(saved(tmp_path))


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["model.export", str(tmp_path / "nowhere.pt")])
    assert main() == 2
    assert "nowhere.pt" in capfd.readouterr().err
