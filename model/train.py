"""Train a recipe on a dataset: the whole loop, in one file.

    python -m model.train JOB [--device auto] [--workers N] [--wandb offline]

JOB is a folder with `recipe.json` and `dataset/`; everything that training makes goes to `JOB/out`:
checkpoints, `metrics.jsonl`, `progress.json`, sample pictures. Run it again and it goes on from the
newest checkpoint that verifies. SIGTERM and Ctrl-C write a checkpoint first, also while validating.
"""

import argparse
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

from model import checkpoint, failures
from model.device import autocast, default_threads, default_workers
from model.errors import InputError, TrainingError
from model.evaluate import Evaluation, evaluate, spread
from model.inference import Predictor
from model.job import Job, alone_in
from model.journal import Journal
from model.loader import Batch, normalise, training_batches
from model.pretrained import MIRROR
from model.saver import Saver
from model.state import TrainingState
from model.wandb_process import WANDB_PATIENCE, fed_to_wandb

STOPPED = 143  # the exit code of a run that was asked to stop and can go on: 128 + SIGTERM
SAVE_EVERY = 10.0  # minutes between two checkpoints at most

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
    save_every: float = SAVE_EVERY,
    keep_step: int | None = None,
    wandb: str = "disabled",
    wandb_patience: float = WANDB_PATIENCE,
) -> bool:
    """Train the job in `folder` to the end, or until `stop()`; True when the end was reached.

    Checkpoints are written after every epoch, and every `save_every` minutes of a longer one; the
    best and the last are kept, and one of `keep_step`, wherever in its epoch that step is.
    Raises InputError for what the user can put right and TrainingError for training gone wrong.
    """
    job = Job.open(folder, run_id, device)
    # To search the fastest kernels pays only where sizes come again.
    torch.backends.cudnn.benchmark = job.recipe.fit != "pad"
    state = TrainingState.initial(job)
    unscored = False
    checkpoint.recover(job.out / "checkpoints")
    if found := checkpoint.newest(job.out / "checkpoints"):
        came_from, saved = checkpoint.load(found / checkpoint.BLOB)
        _must_fit(came_from, job.origin)
        state.load_state_dict(saved)
        unscored = came_from.miou is None and state.step % job.order.steps_per_epoch == 0
    elif job.recipe.pretrained:
        state.load_pretrained()

    with ExitStack() as stack:
        journal = stack.enter_context(Journal(job.out, state.step))
        stack.enter_context(fed_to_wandb(folder, wandb, wandb_patience))
        if journal.finished:
            return True
        if state.step:
            print(f"going on from step {state.step} of {job.order.total_steps}", flush=True)
        else:
            unknown_yet = {"step", "epoch", "miou", "iou"}
            journal.write("start", 0, **job.origin.model_dump(mode="json", exclude=unknown_yet))
        saver = stack.enter_context(Saver(job.out / "checkpoints", keep_step))

        def heed(*_: int) -> None:
            saver.look()
            if stop():
                raise _Stopped

        training = Training(job, state, journal, saver, heed)
        try:
            if unscored:  # it was stopped while validating
                training.end_epoch(None)
                saver.wait()  # loader processes must not be forked off beside a thread
            training.run(workers, save_every, keep_step)
        except _Stopped:
            training.save(None)
            saver.wait()
            print(
                f"stopped at step {state.step} of {job.order.total_steps}, checkpoint written; "
                "run it again to go on"
            )
            return False
        saver.wait()
        journal.write("finish", state.step)
        return True


@dataclass(frozen=True)
class Training:
    """The loop, and all that it works with."""

    job: Job
    state: TrainingState
    journal: Journal
    saver: Saver
    heed: Heed

    def run(self, workers: int, save_every: float, keep_step: int | None) -> None:
        """From the state's step to the last."""
        job, state = self.job, self.state
        steps = job.order.steps_per_epoch
        log_every = max(1, steps // 10)
        value: float | None = None  # the loss when it was last looked at
        speed, saved = _Throughput(), time.monotonic()
        state.net.train()
        pinned = job.device.type == "cuda"
        batches = training_batches(
            job.train, job.recipe, job.order, workers, start=state.step, pin_memory=pinned
        )
        for batch in batches:
            lr = float(state.schedule.get_last_lr()[0])
            loss = training_step(job, state, batch)
            speed.images += len(batch.images)
            batch_in_epoch = state.step % steps
            if batch_in_epoch % log_every == 0:
                value = float(loss)  # waits for the device
                self._must_be_finite(value)
                self.journal.write("step", state.step, epoch=state.step / steps, loss=value, lr=lr)
            self.journal.progress(
                step=state.step,
                total_steps=job.order.total_steps,
                loss=value,
                images_per_second=speed.rate(),
            )
            rate = speed.rate()
            if batch_in_epoch:
                self.heed()
            late = time.monotonic() >= saved + 60 * save_every
            if late or state.step == keep_step:  # before a validation, which takes time
                self.save(None)
                saved = time.monotonic()
            if batch_in_epoch == 0:
                self.end_epoch(rate)
                speed, saved = _Throughput(), time.monotonic()

    def end_epoch(self, speed: float | None) -> None:
        """Validate, record, and keep a checkpoint; `speed` in images a second, if known."""
        job, state = self.job, self.state
        train_loss = float(state.loss_sum) / job.order.steps_per_epoch
        self._must_be_finite(train_loss)
        pictured = spread(len(job.val))
        predictor = Predictor.of(state.predicting, job.recipe, job.device)
        scored = evaluate(predictor, job.val, job.loss, keep=pictured, report=self.heed)
        score = scored.score
        self._must_be_finite(score.loss)
        epoch = state.step // job.order.steps_per_epoch
        state.loss_sum.zero_()
        self.journal.write(
            "epoch",
            state.step,
            epoch=epoch,
            train_loss=train_loss,
            val_loss=score.loss,
            miou=score.miou,
            iou=score.iou,
            dice=score.dice,
            mean_dice=score.mean_dice,
            pixel_accuracy=score.pixel_accuracy,
            images_per_second=speed,
        )
        samples = {
            job.val[i].id: (*job.val[i][1:], scored.predictions[i]) for i in sorted(pictured)
        }
        self.journal.save_samples(samples, state.step)
        self.save(scored)
        self.journal.progress(
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

    def save(self, scored: Evaluation | None) -> None:
        """Begin to write a checkpoint of now."""
        state = self.state
        # The last update came after the last loss that was looked at.
        finite = [weight.isfinite().all() for weight in state.net.state_dict().values()]
        if not torch.stack(finite).all():
            raise self._diverged("Weights are no longer finite")
        now: dict[str, object] = {
            "step": state.step,
            "epoch": state.step // self.job.order.steps_per_epoch,
        }
        if scored:
            now |= {"miou": scored.score.miou, "iou": scored.score.iou}
        self.saver.save(self.job.origin.model_copy(update=now), state.state_dict())

    def _must_be_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise self._diverged(f"The loss is {loss}")

    def _diverged(self, what: str) -> TrainingError:
        """Nothing that came to this is ever kept: what was saved before is good."""
        return TrainingError(
            "USER_ERROR",
            f"{what} at step {self.state.step}: lower the learning rate "
            f"(--set lr={self.job.recipe.lr / 10:g}) or use --set precision=fp32.",
        )


def training_step(job: Job, state: TrainingState, batch: Batch) -> Tensor:
    """One update of the weights; the loss, a scalar that is still on the device.

    Computed in parts, the loss is the mean of theirs, by their images. It is close to the whole
    batch's own, and equal where the parts hold equally many pixels that count and the loss is a
    mean over those.
    """
    recipe = job.recipe
    images = batch.images.to(job.device, non_blocking=True)
    targets = batch.targets.to(job.device, non_blocking=True)
    parts = min(recipe.accumulate, len(images))
    total = torch.zeros_like(state.loss_sum)
    state.optimiser.zero_grad(set_to_none=True)
    for photos, truth in zip(images.tensor_split(parts), targets.tensor_split(parts), strict=True):
        seen = normalise(photos, recipe.normalise)
        with autocast(job.device, job.dtype):
            logits = state.forward(seen.contiguous(memory_format=job.memory_format))
        loss = job.loss(logits, truth) * (len(photos) / len(images))
        state.scaler.scale(loss).backward()
        total += loss.detach()
    if recipe.clip is not None:
        state.scaler.unscale_(state.optimiser)
        nn.utils.clip_grad_norm_(state.net.parameters(), recipe.clip)
    state.scaler.step(state.optimiser)
    state.scaler.update()
    if state.averaged:
        state.averaged.update_parameters(state.net)
    state.step += 1
    if state.step < job.order.total_steps:  # a schedule has one rate a step, and none after it
        state.schedule.step()
    state.loss_sum += total
    return total


@dataclass
class _Throughput:
    """Images a second since it was made."""

    images: int = 0
    since: float = field(default_factory=time.perf_counter)

    def rate(self) -> float:
        seconds = time.perf_counter() - self.since
        return self.images / seconds


def _must_fit(found: checkpoint.Description, wanted: checkpoint.Description) -> None:
    """Going on with another recipe or dataset would be neither the old run nor the new one."""
    for what, before, now in (
        ("recipe", found.recipe.decisive(), wanted.recipe.decisive()),
        ("dataset", found.dataset_digest, wanted.dataset_digest),
        ("list of classes", found.classes, wanted.classes),
    ):
        if before != now:
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
        "--save-every",
        type=float,
        default=SAVE_EVERY,
        metavar="MINUTES",
        help="a checkpoint at least so often (%(default)g); after each epoch in any case",
    )
    parser.add_argument(
        "--keep-step", type=int, metavar="STEP", help="keep a checkpoint of this step as well"
    )
    parser.add_argument(
        "--weights-url",
        default=os.environ.get(MIRROR, ""),
        help=f"where pretrained weights are, if not at PyTorch; default: {MIRROR}",
    )
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
    os.environ[MIRROR] = args.weights_url
    job: Path = args.job.resolve()
    try:
        with alone_in(job):
            failures.forget(job)
            done = train(
                job,
                run_id=args.run_id or job.name,
                device=args.device,
                workers=args.workers,
                stop=lambda: bool(stopping),
                save_every=args.save_every,
                keep_step=args.keep_step,
                wandb=args.wandb,
                wandb_patience=args.wandb_patience,
            )
        return 0 if done else STOPPED
    except Exception as error:
        return failures.leave(job, error)


if __name__ == "__main__":
    sys.exit(main())
