"""Several processes train as one does: the same steps, samples and score, and one end for all."""

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from infra.evidence import Evidence
from infra.failure import Cause
from infra.verdict import verdict
from model import checkpoint
from model.dataset import Dataset
from model.errors import InputError
from model.evaluate import evaluate_checkpoint
from model.images import Image
from model.job import Job, shared_by
from model.loader import training_batches
from model.manifest import VOID
from model.order import BatchOrder
from model.ranks import Ranks
from model.state import TrainingState
from model.train import STOPPED, train, training_step
from several import in_ranks
from tiny import (
    batch_of,
    journal,
    labelled,
    run_main,
    start_trainer,
    steps,
    weights_digest,
    write_job,
    write_recipe,
)

# Photos never influence each other in it, so that nothing depends on who computes which.
WITHOUT_NORMS: dict[str, Any] = {
    "net": "vgg_unet", "encoder": "vgg11", "depth": None, "image_size": 32, "optimiser": "sgd",
    "lr": 0.3, "epochs": 2,
}  # fmt: skip


def unevenly_void() -> dict[str, list[tuple[Image, Image]]]:
    """Of twelve photos each has another share of void, up to all of it; five validate."""
    pairs = [labelled(i, 40, 40) for i in range(12)]
    for number, (_, mask) in enumerate(pairs):
        mask[: round(40 * number / 11)] = VOID
    return {"train": pairs, "val": [labelled(100 + i, 30 + i, 40 - i) for i in range(5)]}


def newest(job: Path) -> Path:
    folder = checkpoint.newest(job / "out" / "checkpoints")
    assert folder
    return folder / checkpoint.BLOB


def weights(job: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = checkpoint.load(newest(job))[1]["net"]
    return found


def by(ranks: int, job: Path, stop: int | None = None) -> list[bool]:
    """Train with that many processes; whether each came to the end.

    The last of them alone is told to stop, when it asks for the `stop`th time.
    """

    def work(own: Ranks) -> bool:
        asked = itertools.count(1)

        def told() -> bool:
            return next(asked) == stop and own.rank == ranks - 1

        return train(job, run_id="run", device="cpu", stop=told, ranks=own)

    return in_ranks(ranks, work)


def assert_learned_alike(one: Path, other: Path) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    for name, weight in a.items():
        torch.testing.assert_close(b[name], weight, rtol=1e-5, atol=1e-6, msg=name)
    for kind, values in (("step", ("loss", "lr")), ("epoch", ("train_loss", "val_loss"))):
        for mine, theirs in zip(journal(one, kind), journal(other, kind), strict=True):
            assert [theirs[v] for v in values] == pytest.approx([mine[v] for v in values], rel=1e-5)
            assert theirs.get("iou") == mine.get("iou")


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "tversky + cross_entropy", "class_weights": "median-frequency"},
        {"loss": "lovasz"},
        {"loss": "focal + 0.5*bce", "ema": 0.5, "clip": 0.05},
        {"loss": "jaccard", "multi_scale": (1, 2), "optimiser": "adamw", "lr": 3e-3},
    ],
    ids=lambda settings: settings["loss"],
)
def test_two_learn_what_one_learns(tmp_path: Path, settings: dict[str, Any]) -> None:
    """The same global batch gives the same steps, however unevenly what counts is shared out."""
    alone, shared = (
        write_job(tmp_path / name, unevenly_void(), **(WITHOUT_NORMS | settings))
        for name in ("alone", "shared")
    )
    train(alone, run_id="run", device="cpu")
    assert by(2, shared) == [True, True]
    assert_learned_alike(alone, shared)
    first = TrainingState.initial(Job.open(alone, "run", "cpu")).predicting.state_dict()
    moved = [float((weight - first[name]).abs().max()) for name, weight in weights(alone).items()]
    assert max(moved) > 0.005  # far enough for another way to show


def test_they_may_be_more_than_two_and_compute_in_parts(tmp_path: Path) -> None:
    """In parts, of photos in which equally many pixels count, as for one process."""
    still = {"scale": (1, 1), "rotate": 0, "fit": "resize", "loss": "cross_entropy"}
    pairs = [labelled(i, 32, 32) for i in range(12)]
    for _, mask in pairs:
        mask[0] = 0
    alone, shared = (
        write_job(
            tmp_path / name,
            {"train": pairs, "val": pairs[:2]},  # fewer than ranks
            **(WITHOUT_NORMS | still | {"accumulate": parts, "batch_size": 6}),
        )
        for name, parts in (("alone", 1), ("shared", 2))
    )
    train(alone, run_id="run", device="cpu")
    assert by(3, shared) == [True] * 3
    assert_learned_alike(alone, shared)


@pytest.mark.parametrize("settings", [{}, {"multi_scale": (0.75, 1, 1.25)}], ids=["", "scales"])
@pytest.mark.parametrize("workers", [0, 2])
def test_they_share_every_batch_and_drop_or_repeat_nothing(
    tmp_path: Path, workers: int, settings: dict[str, Any]
) -> None:
    job = write_job(tmp_path / "job", **settings)
    recipe = write_recipe(job, **settings)
    data = Dataset(job / "dataset", "train")
    order = BatchOrder(recipe.seed, len(data), recipe.batch_size, epochs=3)
    whole, *parts = (
        training_batches(data, recipe, order, workers, ranks=ranks)
        for ranks in (Ranks(), Ranks(0, 2), Ranks(1, 2))
    )
    for batch, *shares in zip(whole, *parts, strict=True):
        assert [len(share.images) for share in shares] == [2, 2]
        assert torch.equal(torch.cat([share.images for share in shares]), batch.images)
        assert torch.equal(torch.cat([share.targets for share in shares]), batch.targets)


def test_a_net_with_batch_norm_learns_and_is_scored_as_it_is_kept(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", unevenly_void(), epochs=12, width=8, ema=0.5)
    assert by(2, job) == [True, True]
    last = journal(job, "epoch")[-1]
    assert last["miou"] > 0.6
    again = evaluate_checkpoint(newest(job), job / "dataset", device="cpu")
    assert (again.score.images, again.score.iou) == (5, last["iou"])
    assert again.score.loss == pytest.approx(last["val_loss"])
    assert len(journal(job, "samples")[-1]["names"]) == 5


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (3, 2)])
def test_it_goes_on_with_another_number_of_them(tmp_path: Path, before: int, after: int) -> None:
    alone, job = (
        write_job(tmp_path / name, unevenly_void(), **(WITHOUT_NORMS | {"batch_size": 6}))
        for name in ("alone", "job")
    )
    train(alone, run_id="run", device="cpu")
    validating = -(-5 // before)
    assert by(before, job, stop=1 + validating + 1) == [False] * before
    assert steps(job) == [1, 2, 3]
    assert by(after, job) == [True] * after
    assert_learned_alike(alone, job)


@pytest.mark.parametrize(("stop", "step"), [(2, 2), (1 + 1 + 2 + 1 + 1 + 1, 6)])
def test_stopped_and_resumed_they_equal_never_stopped(tmp_path: Path, stop: int, step: int) -> None:
    """To the bit, with dropout, batch norm and averages; at step 6 while they validate."""
    settings = {"net": "simple_fcn", "dropout": 0.5, "depth": None, "ema": 0.5, "epochs": 3}
    whole, job = (write_job(tmp_path / name, **settings) for name in ("whole", "job"))
    assert by(2, whole) == [True, True]
    assert by(2, job, stop) == [False, False]
    assert steps(job)[-1] == step
    assert [record["step"] for record in journal(job, "epoch")] == ([3] if step == 6 else [])
    assert by(2, job) == [True, True]
    assert steps(job) == steps(whole)
    assert weights_digest(job) == weights_digest(whole)


def test_each_has_random_numbers_of_its_own_at_every_step(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job")
    batch = batch_of([labelled(i, 16, 16) for i in range(2)])

    def drawn(ranks: Ranks) -> list[float]:
        opened = Job.open(job, "run", "cpu", ranks)
        state = TrainingState.initial(opened)
        numbers = []
        for _ in range(2):
            training_step(opened, state, batch)
            numbers.append(float(torch.rand(())))
        return numbers

    first = in_ranks(2, drawn)
    assert len({*first[0], *first[1]}) == 4
    assert in_ranks(2, drawn) == first


def test_a_batch_that_cannot_be_shared_equally(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tmp_path / "job", batch_size=9)
    assert [shared_by(job, most) for most in (2, 3, 4)] == [1, 3, 3]
    told = capsys.readouterr().out.splitlines()
    assert told[-1].startswith("3 of 4 processes share a batch of 9 images")
    with pytest.raises(InputError, match="9 images cannot be shared equally by 2 processes"):
        Job.open(job, "run", "cpu", Ranks(0, 2))


def ranks_of(trainer: "subprocess.Popen[str]") -> dict[int, int]:
    """The process of each rank that a trainer has started."""
    found = {}
    for child in Path(f"/proc/{trainer.pid}/task/{trainer.pid}/children").read_text().split():
        told = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        (rank,) = (line[5:] for line in told if line.startswith(b"RANK="))
        found[int(rank)] = int(child)
    return found


def begun(job: Path, *options: str) -> "subprocess.Popen[str]":
    """Two ranks that have trained for an epoch."""
    trainer = start_trainer(job, "--ranks", "2", "--device", "cpu", "--workers", "1", *options)
    assert trainer.stdout
    line = trainer.stdout.readline()
    if not line.startswith("epoch 1/"):
        trainer.kill()
        raise AssertionError(line + str(trainer.communicate()))
    return trainer


def is_gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] == "Z"
    except OSError:
        return True


def test_a_rank_that_is_killed_ends_the_job_with_its_cause(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", epochs=10_000)
    trainer = begun(job)
    ranks = ranks_of(trainer)
    assert ranks.keys() == {0, 1}
    os.kill(ranks[1], signal.SIGKILL)
    _, err = trainer.communicate()
    assert trainer.returncode == 128 + signal.SIGKILL
    assert err.splitlines()[-1] == "Process 1 of the training was ended by SIGKILL."
    assert all(map(is_gone, ranks.values()))
    assert not (job / "out" / "failure.json").exists()
    cause, _ = verdict(trainer.returncode, err, Evidence(memory_ran_out=True))
    assert cause is Cause.OUT_OF_MEMORY
    assert checkpoint.newest(job / "out" / "checkpoints")


def test_the_word_of_the_one_that_failed_is_the_jobs(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", epochs=3)
    data = Dataset(job / "dataset", "train")
    first = next(BatchOrder(0, len(data), 4, 1).batches())
    spoilt = data.samples[first[-1].position]  # of the second rank's part
    with (job / "dataset" / "shards" / "00000.tar").open("r+b") as shard:
        shard.seek(spoilt.photo[0])
        shard.write(bytes(spoilt.photo[1]))
    trainer = start_trainer(job, "--ranks", "2", "--device", "cpu", "--workers", "0")
    _, err = trainer.communicate()
    assert trainer.returncode == 2, err
    said = json.loads((job / "out" / "failure.json").read_bytes())
    assert said["cause"] == "BAD_INPUT"
    assert spoilt.id in said["message"]
    assert said["message"] in err.splitlines()


def test_told_to_stop_they_leave_one_checkpoint_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tmp_path / "job", epochs=10_000)
    trainer = begun(job)
    try:
        assert run_main(monkeypatch, job, "--device", "cpu") == 2
        assert "is being trained by another process" in capfd.readouterr().err
        (job / "out" / "failure.json").unlink()  # it belongs to who was refused
        trainer.send_signal(signal.SIGTERM)
        out, err = trainer.communicate()
    finally:
        trainer.kill()
    assert (trainer.returncode, err) == (STOPPED, "")
    step = int(newest(job).parent.name)
    assert out.splitlines()[-1] == (
        f"stopped at step {step} of 30000, checkpoint written; run it again to go on"
    )
    assert checkpoint.load(newest(job))[0].provenance.ranks == 2


def test_they_stop_when_who_started_them_is_gone(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", epochs=10_000)
    trainer = begun(job)
    trainer.kill()
    out, _ = trainer.communicate()  # until the last of them has ended
    assert out.splitlines()[-1].startswith("stopped at step ")
    assert trainer.returncode == -signal.SIGKILL


def test_torchrun_may_start_them_as_well(tmp_path: Path) -> None:
    alone, job = (
        write_job(tmp_path / name, unevenly_void(), **WITHOUT_NORMS) for name in ("alone", "job")
    )
    train(alone, run_id="run", device="cpu")
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options = ["--device", "cpu", "--threads", "1", "--workers", "0"]
    done = subprocess.run(
        [*run, "-m", "model.train", str(job), *options],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1/") == 1
    assert_learned_alike(alone, job)
