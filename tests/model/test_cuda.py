"""On a GPU: precisions, averages, pinned memory, compiling, going on, and its memory's end."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from model import checkpoint, failures
from model.evaluate import evaluate_checkpoint
from model.job import Job
from model.loader import training_batches
from model.state import TrainingState
from model.train import train, training_step
from tiny import batch_of, journal, labelled, write_job

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def opened(folder: Path, **settings: Any) -> tuple[Job, TrainingState]:
    job = Job.open(write_job(folder, **settings), "run", "cuda")
    return job, TrainingState.initial(job)


def blob(folder: Path) -> Path:
    newest = checkpoint.newest(folder / "out" / "checkpoints")
    assert newest
    return newest / checkpoint.BLOB


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_it_learns_and_the_cpu_scores_it_alike(
    tmp_path: Path, precision: str, workers: int
) -> None:
    where = "loader" if workers else "device"
    folder = write_job(
        tmp_path / "job", precision=precision, epochs=12, width=8, ema=0.9, augment_on=where
    )
    assert train(folder, run_id="run", device="cuda", workers=workers)
    scores = [record["miou"] for record in journal(folder, "epoch")]
    assert scores[-1] > 0.6
    there = evaluate_checkpoint(blob(folder), folder / "dataset", device="cuda").score
    here = evaluate_checkpoint(blob(folder), folder / "dataset", device="cpu").score
    assert there.miou == pytest.approx(scores[-1], abs=0.01)
    assert here.miou == pytest.approx(there.miou, abs=0.02)


def test_stopped_and_gone_on_it_has_scaler_and_average_again(tmp_path: Path) -> None:
    job, state = opened(tmp_path / "job", precision="fp16", ema=0.9)
    batch = batch_of([labelled(i, 16, 16) for i in range(4)])
    for _ in range(3):
        training_step(job, state, batch)
    saved = state.state_dict()
    _, again = opened(tmp_path / "again", precision="fp16", ema=0.9)
    again.load_state_dict(saved)
    assert isinstance(again.averaged, AveragedModel)
    assert again.averaged.n_averaged == 3
    assert again.scaler.get_scale() == state.scaler.get_scale() > 1
    assert again.loss_sum.is_cuda
    expected = torch.rand(3, device="cuda")  # after the random state was restored
    again.load_state_dict(saved)
    assert torch.equal(torch.rand(3, device="cuda"), expected)
    for name, weight in state.net.state_dict().items():
        assert torch.equal(again.net.state_dict()[name], weight), name


def test_batches_come_in_pinned_memory(tmp_path: Path) -> None:
    job, _ = opened(tmp_path / "job", augment_on="loader")
    batch = next(training_batches(job.train, job.recipe, job.order, 1, device=job.device))
    assert batch.images.is_pinned()
    assert batch.targets.is_pinned()


def test_augmented_there_a_batch_is_as_on_the_cpu(tmp_path: Path) -> None:
    job, _ = opened(tmp_path / "job", augment_on="device", rotate=30, jitter=0.5)
    places = torch.device("cpu"), job.device
    here, there = (
        training_batches(job.train, job.recipe, job.order, 0, device=place) for place in places
    )
    for mine, theirs in zip(here, there, strict=True):
        assert theirs.images.is_cuda
        apart = (theirs.images.cpu().int() - mine.images.int()).abs()
        assert (apart > 2).float().mean() < 0.02  # a position may be rounded to its neighbour
        assert (theirs.targets.cpu() != mine.targets).float().mean() < 0.02


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nobody_waits_in_a_step(tmp_path: Path, precision: str) -> None:
    job, state = opened(tmp_path / "job", precision=precision, clip=1.0, class_weights="log")
    batches = training_batches(job.train, job.recipe, job.order, 0, device=job.device)
    training_step(job, state, next(batches))  # what is made once is made in the first
    torch.cuda.set_sync_debug_mode("error")
    try:
        training_step(job, state, next(batches))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_compiled_step_is_the_step(tmp_path: Path) -> None:
    batch = batch_of([labelled(i, 16, 16) for i in range(4)])
    losses = []
    for compiled in (False, True):
        job, state = opened(tmp_path / str(compiled), compile=compiled, precision="fp32")
        losses.append([float(training_step(job, state, batch)) for _ in range(3)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_too_large_a_batch_for_the_memory_is_named(tmp_path: Path) -> None:
    folder = write_job(tmp_path / "job", image_size=512, batch_size=12, width=64, depth=3)
    torch.cuda.set_per_process_memory_fraction(0.001)
    try:
        with pytest.raises(torch.OutOfMemoryError) as caught:
            train(folder, run_id="run", device="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    cause, message = failures.explain(folder, caught.value)
    assert cause == "OUT_OF_MEMORY"
    assert "batch_size" in message
