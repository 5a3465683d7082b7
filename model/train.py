"""Train a recipe on a dataset: the whole loop, in one file.

    python -m model.train JOB [--device auto] [--workers N] [--wandb offline]

JOB is a folder with `recipe.json` and `dataset/`; everything that training makes goes to `JOB/out`:
checkpoints, `metrics.jsonl`, `progress.json`, sample pictures. Run it again and it goes on from the
newest checkpoint that verifies. SIGTERM and Ctrl-C write a checkpoint first, also while validating.
"""

import argparse
import json
import math
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

from model import checkpoint
from model.device import autocast, default_threads, default_workers
from model.errors import InputError, TrainingError, disk_problem
from model.evaluate import Evaluation, evaluate, spread
from model.job import Job
from model.journal import Journal, write_atomically
from model.loader import Batch, normalise, training_batches
from model.state import TrainingState
from model.wandb_process import WANDB_PATIENCE, fed_to_wandb

STOPPED = 143  # the exit code of a run that was asked to stop and can go on: 128 + SIGTERM
_FAILURE, _TRACEBACK = "failure.json", "traceback.txt"  # in `out`: why the last attempt failed

Heed = Callable[..., None]  # called wherever training may stop; raises _Stopped where it shall


class _Stopped(Exception):
    """Training was asked to stop."""


def train(
    folder: Path,
    *,
    run_id: str,
    device: str = "auto",
    workers: int = 0,
    stop: Callable[[], bool] = lambda: False,
    wandb: str = "disabled",
    wandb_patience: float = WANDB_PATIENCE,
) -> bool:
    """Train the job in `folder` to the end, or until `stop()`; True when the end was reached.

    Raises InputError for what the user can put right and TrainingError for training gone wrong.
    """
    job = Job.open(folder, run_id, device)
    torch.backends.cudnn.benchmark = True
    state = TrainingState.initial(job)
    unscored = False
    checkpoint.recover(job.out / "checkpoints")
    if found := checkpoint.newest(job.out / "checkpoints"):
        came_from, saved = checkpoint.load(found / checkpoint.BLOB)
        _must_fit(came_from, job.origin)
        state.load_state_dict(saved)
        unscored = came_from.miou is None and state.step % job.order.steps_per_epoch == 0

    def heed(*_: int) -> None:
        if stop():
            raise _Stopped

    with Journal(job.out, state.step) as journal, fed_to_wandb(folder, wandb, wandb_patience):
        if journal.finished:
            return True
        if state.step:
            print(f"going on from step {state.step} of {job.order.total_steps}", flush=True)
        else:
            unknown_yet = {"step", "epoch", "miou", "iou"}
            journal.write("start", 0, **job.origin.model_dump(mode="json", exclude=unknown_yet))
        try:
            if unscored:  # it was stopped while validating
                _end_epoch(job, state, journal, None, heed)
            _run(job, state, journal, workers, heed)
        except _Stopped:
            _save(job, state, None)
            print(f"stopped at step {state.step} of {job.order.total_steps}, checkpoint written")
            return False
        journal.write("finish", state.step)
        return True


def _run(job: Job, state: TrainingState, journal: Journal, workers: int, heed: Heed) -> None:
    """The loop, from `state` to the last step."""
    steps = job.order.steps_per_epoch
    log_every = max(1, steps // 10)
    value: float | None = None  # the loss when it was last looked at
    speed = _Throughput()
    state.net.train()
    pinned = job.device.type == "cuda"
    batches = training_batches(
        job.train, job.recipe, job.order, workers, start=state.step, pin_memory=pinned
    )
    for batch in batches:
        lr = float(state.schedule.get_last_lr()[0])
        loss = _step(job, state, batch)
        speed.images += len(batch.images)
        batch_in_epoch = state.step % steps
        if batch_in_epoch % log_every == 0:
            value = float(loss)  # the only place inside an epoch that waits for the device
            _must_be_finite(value, job, state)
            journal.write("step", state.step, epoch=state.step / steps, loss=value, lr=lr)
        journal.progress(
            step=state.step,
            total_steps=job.order.total_steps,
            loss=value,
            images_per_second=speed.rate(),
        )
        if batch_in_epoch == 0:
            _end_epoch(job, state, journal, speed.rate(), heed)
            speed = _Throughput()
        else:
            heed()


def _step(job: Job, state: TrainingState, batch: Batch) -> Tensor:
    """One update of the weights; the loss, a scalar that is still on the device."""
    images = normalise(batch.images.to(job.device, non_blocking=True))
    with autocast(job.device, job.dtype):
        logits = state.net(images.contiguous(memory_format=job.memory_format))
    loss = job.loss(logits, batch.targets.to(job.device, non_blocking=True))
    state.optimiser.zero_grad(set_to_none=True)
    state.scaler.scale(loss).backward()
    state.scaler.unscale_(state.optimiser)
    nn.utils.clip_grad_norm_(state.net.parameters(), job.recipe.clip)
    state.scaler.step(state.optimiser)
    state.scaler.update()
    state.step += 1
    if state.step < job.order.total_steps:  # a schedule has one rate a step, and none after it
        state.schedule.step()
    state.loss_sum += loss.detach()
    return loss.detach()


def _end_epoch(
    job: Job, state: TrainingState, journal: Journal, speed: float | None, heed: Heed
) -> None:
    """Validate, record, and keep a checkpoint; `speed` in images a second, None where unknown."""
    pictured = spread(len(job.val))
    scored = evaluate(
        state.net,
        job.val,
        job.loss,
        job.device,
        job.dtype,
        job.memory_format,
        keep=pictured,
        report=heed,
    )
    score = scored.score
    epoch = state.step // job.order.steps_per_epoch
    train_loss = float(state.loss_sum) / job.order.steps_per_epoch
    state.loss_sum.zero_()
    journal.write(
        "epoch",
        state.step,
        epoch=epoch,
        train_loss=train_loss,
        val_loss=score.loss,
        miou=score.miou,
        iou=score.iou,
        pixel_accuracy=score.pixel_accuracy,
        images_per_second=speed,
    )
    pictures = {job.val[i].id: (*job.val[i][1:], scored.predictions[i]) for i in sorted(pictured)}
    journal.save_samples(pictures, state.step)
    saved = _save(job, state, scored)
    journal.write("checkpoint", state.step, miou=score.miou, weights_digest=saved.weights_digest)
    journal.progress(
        always=True,
        step=state.step,
        total_steps=job.order.total_steps,
        loss=train_loss,
        miou=score.miou,
        images_per_second=speed,
    )
    print(
        f"epoch {epoch}/{job.recipe.epochs}  loss {train_loss:.4f}  val {score.loss:.4f}  "
        f"mIoU {score.miou:.4f}" + (f"  {speed:.0f} images/s" if speed else ""),
        flush=True,
    )


def _save(
    job: Job, state: TrainingState, scored: Evaluation | None
) -> checkpoint.CheckpointManifest:
    """Write a checkpoint, and keep only the best and this one."""
    now: dict[str, object] = {"step": state.step, "epoch": state.step // job.order.steps_per_epoch}
    if scored:
        now |= {"miou": scored.score.miou, "iou": scored.score.iou}
    folder = job.out / "checkpoints"
    saved = checkpoint.save(folder, job.origin.model_copy(update=now), state.state_dict())
    checkpoint.keep_best_and_last(folder)
    return saved


@dataclass
class _Throughput:
    """Images a second since it was made."""

    images: int = 0
    since: float = field(default_factory=time.perf_counter)

    def rate(self) -> float:
        seconds = time.perf_counter() - self.since
        return self.images / seconds


def _must_be_finite(loss: float, job: Job, state: TrainingState) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            "USER_ERROR",
            f"The loss is {loss} at step {state.step}: lower the learning rate "
            f"(--set lr={job.recipe.lr / 10:g}) or use --set precision=fp32.",
        )


def _must_fit(found: checkpoint.Description, wanted: checkpoint.Description) -> None:
    """Going on with another recipe or dataset would be neither the old run nor the new one."""
    for field_name, what in (
        ("recipe", "recipe"), ("dataset_digest", "dataset"), ("classes", "list of classes")
    ):  # fmt: skip
        if getattr(found, field_name) != getattr(wanted, field_name):
            raise InputError(
                f"The checkpoint at step {found.step} was made with another {what}; "
                "start a new run, or go on with what it was made with."
            )


def main() -> int:
    """Command line; 0 done, 1 training failed, 2 wrong input, 143 stopped and resumable."""
    parser = argparse.ArgumentParser(
        prog="python -m model.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("job", type=Path, help="folder with recipe.json and dataset/")
    parser.add_argument("--run-id", default="", help="default: the folder's name")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument(
        "--workers", type=int, default=default_workers(), help="loader processes (%(default)s)"
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: all cores but one")
    parser.add_argument(
        "--wandb", default="disabled", choices=("auto", "online", "offline", "disabled")
    )
    parser.add_argument(
        "--wandb-patience",
        type=float,
        default=WANDB_PATIENCE,
        metavar="SECONDS",
        help="how long to wait for W&B at the end (%(default)s)",
    )
    args = parser.parse_args()
    stopping: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        stopping.append(number)

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    torch.set_num_threads(args.threads or default_threads())
    job: Path = args.job.resolve()
    try:
        for earlier in (_FAILURE, _TRACEBACK):
            (job / "out" / earlier).unlink(missing_ok=True)
        done = train(
            job,
            run_id=args.run_id or job.name,
            device=args.device,
            workers=args.workers,
            stop=lambda: bool(stopping),
            wandb=args.wandb,
            wandb_patience=args.wandb_patience,
        )
        return 0 if done else STOPPED
    except InputError as error:
        return _fail(job, "BAD_INPUT", str(error), 2)
    except TrainingError as error:
        return _fail(job, error.cause, str(error), 1)
    except torch.OutOfMemoryError:
        return _fail(
            job,
            "OUT_OF_MEMORY",
            "The GPU's memory is too small for this batch: halve it (--set batch_size=…) or take "
            "a smaller --set image_size=….",
            1,
        )
    except Exception as error:
        if isinstance(error, OSError) and (said := disk_problem(error, job / "out")):
            # The record of how far it came leaves its room to the words on why it ended.
            with suppress(OSError):
                (job / "out" / Journal.PROGRESS).unlink()
            return _fail(job, "STORE", said, 1)
        return _fail(job, "INTERNAL", _unforeseen(job, error), 1)


def _unforeseen(job: Path, error: Exception) -> str:
    """Keep the traceback with what the run leaves, else in the log; returns one sentence."""
    (what,) = traceback.format_exception_only(error)[-1:]
    told = f"Training failed unexpectedly, {what.splitlines()[0].rstrip('.')}"
    said = traceback.format_exc()
    try:
        (job / "out").mkdir(exist_ok=True)
        write_atomically(job / "out" / _TRACEBACK, said.encode(errors="replace"))
    except OSError:
        print(said, file=sys.stderr, flush=True)
        return f"{told}; what is above says where."
    return f"{told}; {_TRACEBACK} beside {Journal.METRICS} says where."


def _fail(job: Path, cause: str, message: str, code: int) -> int:
    """Leave the cause where whoever started us finds it, and say it, as far as the disk allows."""
    with suppress(OSError):
        if job.is_dir():
            (job / "out").mkdir(exist_ok=True)
            said = json.dumps({"cause": cause, "message": message}).encode()
            write_atomically(job / "out" / _FAILURE, said)
    with suppress(OSError):  # what we say may be kept on that disk as well
        print(message, file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
