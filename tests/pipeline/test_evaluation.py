"""`voc-train evaluate`: its stages are shown on the way, and the score is all that it prints."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch

from commands import VocTrain
from devkit import devkit
from model import checkpoint
from pipeline.evaluation import evaluate_on_archives
from pipeline.parameters import Parameters


class Audience:
    """A listener that remembers what it heard."""

    def __init__(self) -> None:
        self.reached: dict[str, tuple[float, float | None]] = {}
        self.reused: dict[str, bool] = {}
        self.heard: list[str] = []

    def started(self, stage: str) -> None:
        pass

    def advanced(self, stage: str, done: float, total: float | None, note: str) -> None:
        self.reached[stage] = done, total

    def said(self, stage: str, line: str) -> None:
        self.heard.append(line)

    def finished(self, stage: str, seconds: float, reused: bool, summary: str) -> None:
        self.reused[stage] = reused


def test_every_stage_tells_how_far_it_is_and_what_was_reused(weights: Path, tmp_path: Path) -> None:
    archive = devkit(tmp_path / "voc.tar", val=("three", "four", "five"))
    parameters = Parameters(archives=(str(archive),), store=str(tmp_path / "store"), device="cpu")
    first, second = Audience(), Audience()
    score = evaluate_on_archives(weights, parameters, "val", [first])
    size = archive.stat().st_size
    assert first.reached == {
        "extract": (size, size),
        "separate": (1, 1),
        "build-dataset": (5, 5),
        "evaluate": (3, 3),
    }
    assert list(first.reused.values()) == [False] * 4
    assert evaluate_on_archives(weights, parameters, "val", [second]) == score
    assert second.reached == {"evaluate": (3, 3)}
    assert second.reused == {
        "extract": True, "separate": True, "build-dataset": True, "evaluate": False,
    }  # fmt: skip


@pytest.mark.parametrize("archives", ["the one", "another"])
def test_photos_that_may_have_been_trained_on_are_noticed(
    weights: Path, tmp_path: Path, archives: str
) -> None:
    description, state = checkpoint.load(weights)
    archive = devkit(tmp_path / "voc.tar")
    known = hashlib.sha256(archive.read_bytes()).hexdigest() if archives == "the one" else "0" * 64
    trained = description.model_copy(update={"archives": (known,), "dataset_digest": "0" * 64})
    path = tmp_path / "checkpoint.pt"
    torch.save({"net": state["net"], "description": trained.model_dump_json()}, path)
    parameters = Parameters(archives=(str(archive),), store=str(tmp_path / "store"), device="cpu")
    audience = Audience()
    evaluate_on_archives(path, parameters, "val", [audience])
    assert [line for line in audience.heard if "--layout" in line] == [
        "it was trained on this archive, with other options: without the same --layout, photos are "
        "scored here that it was trained on"
    ] * (archives == "the one")


def test_the_command_shows_stages_and_prints_the_score_alone(
    weights: Path, tmp_path: Path, voc_train: VocTrain
) -> None:
    archive = devkit(tmp_path / "voc.tar")
    done = voc_train("evaluate", weights, "--archive", archive, "--device", "cpu", "--json")
    assert done.code == 0, done.err
    (line,) = done.out.splitlines()
    miou = json.loads(line)["miou"]
    # A JPEG's bytes are its encoder's business, and with them sizes and digest.
    shown = re.sub(r"in \d+\.\d s|\d\.\d MB|digest \w+", "…", done.err)
    # How far a stage is, it says only where the computer is so slow that somebody may wonder.
    assert [line for line in shown.splitlines() if not re.match(r"\S+ \d+%", line)] == [
        "extract …",
        "extract done …: 1 archive, …, 8 files",
        "separate …",
        "separate done …: 2 train, 1 val, 0 test",
        "build-dataset …",
        "build-dataset done …: 3 samples, 1 shard, …, …",
        "evaluate …",
        f"evaluate done …: mIoU {miou:.4f} on 1 images of val",
    ]


def test_only_the_split_that_is_scored_is_needed(weights: Path, tmp_path: Path) -> None:
    archive = devkit(tmp_path / "voc.tar", train=(), test=("three", "four"), val=())
    parameters = Parameters(archives=(str(archive),), store=str(tmp_path / "store"), device="cpu")
    assert evaluate_on_archives(weights, parameters, "test", []).images == 2
