"""What a recipe may ask of the loop: parts, averages, compiling, checkpoints between epochs."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model import checkpoint
from model.dataset import Dataset
from model.errors import InputError, TrainingError
from model.job import Job
from model.journal import Journal
from model.recipe import Recipe
from model.saver import Saver
from model.state import TrainingState
from model.train import Training, train, training_step
from tiny import batch_of, journal, labelled, steps, weights_digest, write_job


def opened(tmp_path: Path, **settings: Any) -> tuple[Job, TrainingState]:
    job = Job.open(write_job(tmp_path / "job", **settings), "run", "cpu")
    return job, TrainingState.initial(job)


def weights(state: TrainingState) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in state.net.state_dict().items()}


@pytest.fixture
def without_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nets whose outputs for a photo do not depend on the others in the batch."""

    def build(_recipe: Recipe, classes: int) -> nn.Module:
        net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, classes, 1))
        net.stride = torch.tensor(1)
        return net

    monkeypatch.setattr("model.state.build_net", build)


@pytest.mark.usefixtures("without_norms")
@pytest.mark.parametrize("parts", [2, 3, 4, 9])
def test_a_step_in_parts_is_the_step(tmp_path: Path, parts: int) -> None:
    settings = {"loss": "cross_entropy", "momentum": 0.0, "optimiser": "sgd", "lr": 0.1}
    batch = batch_of([labelled(i, 16, 16) for i in range(4)])  # equally many pixels count in each
    done = []
    for accumulate in (1, parts):
        job, state = opened(tmp_path / str(accumulate), accumulate=accumulate, **settings)
        loss = training_step(job, state, batch)
        done.append((loss, weights(state)))
    (loss, whole), (in_parts, others) = done
    torch.testing.assert_close(in_parts, loss)
    for name, weight in whole.items():
        torch.testing.assert_close(others[name], weight, msg=name)


@pytest.mark.parametrize("clip", [0.01, None])
def test_clipping_bounds_the_step(tmp_path: Path, clip: float | None) -> None:
    settings = {"clip": clip, "optimiser": "sgd", "momentum": 0.0, "weight_decay": 0, "lr": 1.0}
    job, state = opened(tmp_path, schedule="constant", warm_up=0, **settings)
    before = weights(state)
    training_step(job, state, batch_of([labelled(i, 16, 16) for i in range(4)]))
    moved = [(w - before[n]).flatten() for n, w in state.net.named_parameters()]
    length = float(torch.cat(moved).detach().norm())
    assert (length == pytest.approx(0.01, rel=1e-3)) == (clip is not None)


def test_averaged_weights_are_those_that_are_scored_and_kept(tmp_path: Path) -> None:
    job, state = opened(tmp_path, ema=0.75)
    batch = batch_of([labelled(i, 16, 16) for i in range(4)])
    name = "head.weight"
    wanted = None
    for _ in range(4):
        training_step(job, state, batch)
        now = state.net.state_dict()[name].clone()
        # The first average is the first weights.
        wanted = now if wanted is None else 0.75 * wanted + 0.25 * now
    assert wanted is not None
    torch.testing.assert_close(state.state_dict()["net"][name], wanted)
    torch.testing.assert_close(state.state_dict()["live"][name], now)
    assert not torch.equal(wanted, now)
    assert state.predicting.state_dict()[name].equal(state.state_dict()["net"][name])


def test_averages_help_nobody_unless_asked(tmp_path: Path) -> None:
    _, state = opened(tmp_path)
    assert state.predicting is state.net
    assert "live" not in state.state_dict()


def test_a_checkpoint_between_two_epochs(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", epochs=2, batch_size=2)
    kept: set[str] = set()

    def look() -> bool:
        kept.update(path.parent.name for path in job.glob("out/checkpoints/[0-9]*/manifest.json"))
        return False

    assert train(job, run_id="run", stop=look, save_every=0)
    assert {"00000006", "00000012"} <= kept | {p.name for p in job.glob("out/checkpoints/*")}
    assert kept & {f"{step:08d}" for step in (1, 2, 3, 4, 5, 7, 8, 9, 10, 11)}
    rare = write_job(tmp_path / "rare", epochs=2, batch_size=2)
    assert train(rare, run_id="run")
    assert weights_digest(rare) == weights_digest(job)


def test_a_kill_between_two_epochs_costs_only_what_came_after(tmp_path: Path) -> None:
    whole = write_job(tmp_path / "whole", epochs=2, batch_size=2)
    assert train(whole, run_id="run")
    job = write_job(tmp_path / "job", epochs=2, batch_size=2)

    def killed() -> bool:
        if steps(job)[-1:] == [4]:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        train(job, run_id="run", stop=killed, save_every=0)
    assert checkpoint.newest(job / "out" / "checkpoints") == job / "out/checkpoints/00000003"
    assert train(job, run_id="run")
    assert weights_digest(job) == weights_digest(whole)


def test_what_is_saved_is_the_state_when_it_was_asked_for(tmp_path: Path) -> None:
    job, state = opened(tmp_path, ema=0.5)
    batch = batch_of([labelled(i, 16, 16) for i in range(4)])
    training_step(job, state, batch)
    wanted = checkpoint.weights_digest(state.state_dict()["net"])
    with Saver(job.out / "checkpoints") as saver:
        saver.save(job.origin.model_copy(update={"step": 1}), state.state_dict())
        for _ in range(3):
            training_step(job, state, batch)
    found = checkpoint.verified(job.out / "checkpoints" / "00000001")
    assert found
    assert found.weights_digest == wanted


def test_compiled_it_learns_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The graph is captured and differentiated; to make C++ of it as well would take a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    losses = []
    for compiled in (False, True):
        job, state = opened(tmp_path / str(compiled), compile=compiled)
        batch = batch_of([labelled(i, 16, 16) for i in range(4)])
        losses.append([float(training_step(job, state, batch)) for _ in range(3)])
        assert (state.forward is state.net) != compiled
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


# What cannot be trained


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 1, "image_size": 8, "depth": 3},
        {"batch_size": 4, "image_size": 8, "depth": 3, "accumulate": 4},
        {"batch_size": 1, "image_size": 16, "depth": 3, "multi_scale": (0.5, 1)},
    ],
    ids=str,
)
def test_a_crop_that_shrinks_to_one_value_is_refused(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    with pytest.raises(
        InputError, match="shrinks to 1x1.*image_size=16.*(batch_size=2|accumulate=1)"
    ):
        opened(tmp_path / "one", **settings)
    _, state = opened(tmp_path / "two", **settings | {"batch_size": 8})
    assert state.step == 0


def test_weights_that_came_to_nothing_are_not_kept(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", epochs=2, batch_size=1)
    assert not train(job, run_id="run", stop=lambda: 13 in steps(job))
    good = checkpoint.newest(job / "out" / "checkpoints")
    assert good
    _, saved = checkpoint.load(good / checkpoint.BLOB)
    saved["net"]["head.weight"][0] = float("inf")
    with pytest.raises(TrainingError, match="Weights are no longer finite at step 13"):
        _resumed_with(job, saved).save(None)
    assert checkpoint.newest(job / "out" / "checkpoints") == good


def _resumed_with(folder: Path, saved: dict[str, Any]) -> Training:
    job = Job.open(folder, "run", "cpu")
    state = TrainingState.initial(job)
    state.load_state_dict(saved)
    return Training(
        job, state, Journal(job.out, state.step), Saver(job.out / "checkpoints"), lambda *_: None
    )


def test_class_weights_come_from_the_training_split(tmp_path: Path) -> None:
    job, _ = opened(tmp_path, class_weights="median-frequency")
    counts = Dataset(tmp_path / "job" / "dataset", "train").manifest.pixels["train"]
    weights = job.origin.class_weights
    assert weights
    order = sorted(range(3), key=lambda index: counts[index])
    assert [weights[i] for i in order] == sorted(weights, reverse=True)
    assert train(tmp_path / "job", run_id="run")
    (start,) = journal(tmp_path / "job", "start")
    assert tuple(start["class_weights"]) == weights
