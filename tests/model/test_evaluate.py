"""Evaluation: one number for one net and one set, whoever asks for it."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model import checkpoint
from model.dataset import Dataset
from model.errors import InputError
from model.evaluate import evaluate, evaluate_checkpoint, main
from model.images import decode_mask
from model.inference import Predictor
from model.loader import normalise
from model.losses import build_loss
from model.manifest import VOID
from model.nets import build_net
from model.nets.segmentnet import SegmentNet
from model.train import train
from tiny import CLASSES, RECIPE, journal, write_dataset, write_job

LOSS = build_loss(RECIPE.override({"loss": "cross_entropy"}))


def predictor(net: nn.Module, dtype: torch.dtype = torch.float32) -> Predictor:
    return Predictor(net, RECIPE, torch.device("cpu"), dtype, torch.channels_last)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_job(tmp_path_factory.mktemp("job"), epochs=4)
    train(folder, run_id="run")
    return folder


def blob(job: Path) -> Path:
    best = checkpoint.best(job / "out" / "checkpoints")
    assert best
    return best / checkpoint.BLOB


def test_the_score_is_the_one_of_the_saved_predictions(job: Path) -> None:
    best = max(journal(job, "epoch"), key=lambda record: (record["miou"], record["step"]))
    hits, union = np.zeros(3), np.zeros(3)
    right = counted = 0
    data = Dataset(job / "dataset", "val")
    for sample in (data[position] for position in range(len(data))):
        stem = job / "out" / "samples" / sample.id
        guess = decode_mask(Path(f"{stem}.{best['step']:08d}.png").read_bytes(), sample.id)
        assert guess.shape == sample.mask.shape
        known = sample.mask != VOID
        right += int((guess == sample.mask)[known].sum())
        counted += int(known.sum())
        for index in range(3):
            ours, truth = (guess == index) & known, sample.mask == index
            hits[index] += (ours & truth).sum()
            union[index] += (ours | truth).sum()
    assert best["miou"] == pytest.approx(np.mean(hits / union), abs=1e-12)
    assert [best["iou"][name] for name in CLASSES] == pytest.approx(list(hits / union), abs=1e-12)
    dice = 2 * hits / (union + hits)
    assert [best["dice"][name] for name in CLASSES] == pytest.approx(list(dice), abs=1e-12)
    assert best["pixel_accuracy"] == pytest.approx(right / counted, abs=1e-12)


@pytest.mark.parametrize(
    "settings",
    [{}, {"precision": "bf16"}, {"channels_last": False}, {"precision": "auto", "width": 4}],
    ids=str,
)
def test_a_checkpoint_scores_exactly_what_training_said(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    job = write_job(tmp_path / "job", **settings)
    train(job, run_id="run")
    path = blob(job)
    said = next(r for r in journal(job, "epoch") if r["step"] == int(path.parent.name))
    torch.set_num_threads(2)  # another default must not matter
    used: set[int] = set()
    score = evaluate_checkpoint(
        path, job / "dataset", report=lambda *_: used.add(torch.get_num_threads())
    ).score
    assert used == {1}
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert score.miou == said["miou"]
    assert score.iou == said["iou"]
    assert score.loss == said["val_loss"]
    assert score.pixel_accuracy == said["pixel_accuracy"]
    manifest = checkpoint.verified(path.parent)
    assert manifest
    assert (manifest.miou, manifest.iou) == (score.miou, score.iou)
    assert score.images == 4


def test_a_checkpoint_remembers_how_large_its_photos_were(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", epochs=1)
    manifest = job / "dataset" / "manifest.json"
    said = json.loads(manifest.read_bytes())
    manifest.write_text(json.dumps(said | {"max_side": 24}))
    train(job, run_id="run")
    predictor, description = Predictor.load(blob(job), "cpu")
    assert (predictor.max_side, description.max_side) == (24, 24)


@pytest.mark.parametrize("channels_last", [True, False])
def test_training_and_evaluation_obey_the_recipes_memory_format(
    tmp_path: Path, channels_last: bool
) -> None:
    job = write_job(tmp_path / "job", channels_last=channels_last, epochs=1)
    seen: dict[bool, set[tuple[bool, bool]]] = {True: set(), False: set()}

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, SegmentNet):
            # The weights of a 1x1 convolution lie the same either way.
            kernels = [w for w in module.parameters() if w.dim() == 4 and w.shape[2] == 3]
            seen[module.training] |= {memory_formats(tensor) for tensor in (*inputs, *kernels)}

    hook = nn.modules.module.register_module_forward_pre_hook(note)
    try:
        train(job, run_id="run")
        in_training, validating = seen[True], set(seen[False])
        seen[False].clear()
        evaluate_checkpoint(blob(job), job / "dataset")
    finally:
        hook.remove()
    assert in_training == validating == seen[False] == {(channels_last, not channels_last)}


def memory_formats(tensor: Tensor) -> tuple[bool, bool]:
    """Whether it lies with its channels last, and whether in torch's usual order."""
    return tensor.is_contiguous(memory_format=torch.channels_last), tensor.is_contiguous()


class Watched(nn.Module):
    """Says class 1 everywhere, and notes what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[Tensor] = []
        self.modes: set[tuple[bool, bool, bool]] = set()

    def forward(self, images: Tensor) -> Tensor:
        self.images.append(images)
        modes = self.training, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
        self.modes.add(modes)
        logits = torch.zeros(images.shape[0], 3, *images.shape[2:])
        logits[:, 1] = 1
        return logits


@pytest.mark.parametrize("training", [True, False])
def test_one_image_at_a_time_at_its_own_size_in_eval_mode(job: Path, training: bool) -> None:
    net = Watched().train(training)
    heard: list[tuple[int, int]] = []
    data = Dataset(job / "dataset", "val")
    found = evaluate(predictor(net), data, LOSS, keep={2}, report=lambda *x: heard.append(x))
    assert net.training == training
    sizes = [(17 + i, 26 - i) for i in range(4)]
    assert [image.shape for image in net.images] == [(1, 3, *size) for size in sizes]
    assert net.modes == {(False, False, False)}
    assert heard == [(i, 4) for i in range(1, 5)]
    assert found.predictions.keys() == {2}
    assert found.predictions[2].shape == sizes[2]
    assert (found.predictions[2] == 1).all()
    assert found.score.split == "val"


def test_the_net_sees_what_it_saw_in_training(job: Path) -> None:
    net = Watched()
    data = Dataset(job / "dataset", "val")
    evaluate(predictor(net, torch.bfloat16), data, LOSS)
    photo = torch.from_numpy(data[0].photo).permute(2, 0, 1)[None]
    torch.testing.assert_close(net.images[0], normalise(photo, "imagenet"))
    assert net.modes == {(False, False, True)}  # autocast


def test_the_mode_is_restored_after_a_failure(job: Path) -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise ZeroDivisionError

    net = Broken().train()
    with pytest.raises(ZeroDivisionError):
        evaluate(predictor(net), Dataset(job / "dataset", "val"), LOSS)
    assert net.training


def test_evaluating_changes_nothing_in_the_net(job: Path) -> None:
    net = build_net(RECIPE, 3).train()
    before = checkpoint.weights_digest(net.state_dict())
    evaluate(predictor(net), Dataset(job / "dataset", "val"), LOSS)
    assert checkpoint.weights_digest(net.state_dict()) == before


def test_a_class_that_occurs_nowhere_has_no_iou(tmp_path: Path) -> None:
    blank = (np.zeros((9, 11, 3), np.uint8), np.ones((9, 11), np.uint8))
    write_dataset(tmp_path / "d", {"val": [blank]})
    data = Dataset(tmp_path / "d", "val")
    score = evaluate(predictor(Watched()), data, LOSS).score
    assert score.iou == {"background": None, "red": 1.0, "green": None}
    assert score.miou == 1.0


def test_other_classes_are_refused(job: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "d", classes=("background", "green", "red"))
    with pytest.raises(InputError, match="same classes"):
        evaluate_checkpoint(blob(job), tmp_path / "d")


def test_another_split(job: Path) -> None:
    assert evaluate_checkpoint(blob(job), job / "dataset", split="train").score.images == 12


# The command line


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["model.evaluate", *map(str, arguments)])
    return main()


def test_command_line(
    job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    score = evaluate_checkpoint(blob(job), job / "dataset").score
    assert run(monkeypatch, blob(job), job / "dataset") == 0
    text = capsys.readouterr().out
    for name, iou in score.iou.items():
        assert re.search(rf"\b{name} +{iou:.4f} +{score.dice[name]:.4f}$", text, re.MULTILINE)
    assert f"mIoU {score.miou:.4f}" in text
    assert run(monkeypatch, blob(job), job / "dataset", "--json") == 0
    assert json.loads(capsys.readouterr().out) == score.model_dump()


@pytest.mark.parametrize("wrong", ["checkpoint", "dataset", "device"])
def test_command_line_with_wrong_input(
    job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    device = "nonsense" if wrong == "device" else "cpu"
    path = job / "nowhere.pt" if wrong == "checkpoint" else blob(job)
    data = job / "nowhere" if wrong == "dataset" else job / "dataset"
    assert run(monkeypatch, path, data, "--device", device) == 2
    said = capsys.readouterr()
    assert "nowhere" in said.err or "'nonsense'" in said.err
    assert len(said.err.splitlines()) == 1
    assert said.out == ""


@pytest.mark.parametrize("harm", ["missing", "shape", "list"])
def test_weights_of_another_net_are_refused(job: Path, tmp_path: Path, harm: str) -> None:
    state = torch.load(blob(job), weights_only=True)
    name = next(iter(state["net"]))
    if harm == "missing":
        del state["net"][name]
    elif harm == "shape":
        state["net"][name] = torch.zeros(3)
    else:
        state["net"] = list(state["net"].values())
    torch.save(state, tmp_path / "foreign.pt")
    with pytest.raises(InputError, match=r"foreign\.pt"):
        evaluate_checkpoint(tmp_path / "foreign.pt", job / "dataset", device="cpu")


@pytest.mark.parametrize("threads", [0, 10**6])
def test_an_impossible_number_of_threads_is_refused(
    job: Path, tmp_path: Path, threads: int
) -> None:
    state = torch.load(blob(job), weights_only=True)
    description = json.loads(state["description"])
    description["provenance"]["threads"] = threads
    state["description"] = json.dumps(description)
    torch.save(state, tmp_path / "threads.pt")
    with pytest.raises(InputError, match=r"threads\.pt"):
        evaluate_checkpoint(tmp_path / "threads.pt", job / "dataset", device="cpu")


def test_flip_and_windows_are_asked_for(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = evaluate_checkpoint(blob(job), job / "dataset").score
    flipped = evaluate_checkpoint(blob(job), job / "dataset", flip=True).score
    windowed = evaluate_checkpoint(blob(job), job / "dataset", window=10).score
    assert len({plain.loss, flipped.loss, windowed.loss}) == 3
    assert run(monkeypatch, blob(job), job / "dataset", "--window", "3") == 2


def test_weights_that_are_no_numbers_are_refused(job: Path, tmp_path: Path) -> None:
    state = torch.load(blob(job), weights_only=True)
    state["net"]["head.bias"][0] = float("nan")
    torch.save(state, tmp_path / "nan.pt")
    with pytest.raises(InputError, match=r"nan\.pt holds weights that are no numbers"):
        evaluate_checkpoint(tmp_path / "nan.pt", job / "dataset", device="cpu")


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": []},
        {"classes": ["a", "a", "b"]},
        {"classes": [str(i) for i in range(300)]},
        {"class_weights": [1.0, 1.0, 1.0]},
        {"recipe.class_weights": "log"},
        {"recipe.class_weights": "log", "class_weights": [1.0]},
        {"recipe.class_weights": "log", "class_weights": [1.0, 1.0, -1.0]},
    ],
    ids=str,
)
def test_a_description_that_contradicts_itself_is_refused(
    job: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    state = torch.load(blob(job), weights_only=True)
    description = json.loads(state["description"])
    for key, value in changes.items():
        *inside, last = key.split(".")
        (description[inside[0]] if inside else description)[last] = value
    state["description"] = json.dumps(description)
    torch.save(state, tmp_path / "odd.pt")
    with pytest.raises(InputError, match=r"odd\.pt is not a whole checkpoint"):
        evaluate_checkpoint(tmp_path / "odd.pt", job / "dataset", device="cpu")
