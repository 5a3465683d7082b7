"""Train a recipe on a dataset: the whole loop, in one file.

    python -m model.train JOB [--device auto] [--ranks N] [--workers N] [--wandb offline]

JOB is a folder with `recipe.json` and `dataset/`; everything that training makes goes to `JOB/out`:
checkpoints, `metrics.jsonl`, `progress.json`, sample pictures. Run it again and it goes on from the
newest checkpoint that verifies. SIGTERM and Ctrl-C write a checkpoint first, also while validating.

Where there are several GPUs each gets a process, a rank, with an equal part of every batch. The
loss and its gradient are those of the whole batch; batch norm sees a rank's part.
"""

import math
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

from model import checkpoint, failures
from model.device import autocast, default_threads, default_workers
from model.errors import TrainingError
from model.evaluate import Evaluation, evaluate, spread
from model.inference import Predictor
from model.job import Job, alone_in, shared_by
from model.journal import Journal
from model.launcher import STOPPED, launch, one_a_gpu
from model.loader import Batch, normalise, training_batches
from model.pretrained import MIRROR
from model.ranks import ALONE, Ranks, lost_another
from model.saver import Saver
from model.silent import NoJournal, NoSaver
from model.state import TrainingState
from model.train_options import SAVE_EVERY, options
from model.wandb_process import WANDB_PATIENCE, fed_to_wandb

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
    ranks: Ranks = ALONE,
) -> bool:
    """Train the job in `folder` to the end, or until `stop()`; True when the end was reached.

    Several ranks come here together, and do the same steps; the first writes and speaks for all.

    Checkpoints are written after every epoch, and every `save_every` minutes of a longer one; the
    best and the last are kept, and one of `keep_step`, wherever in its epoch that step is.
    Raises InputError for what the user can put right and TrainingError for training gone wrong.
    """
    job = Job.open(folder, run_id, device, ranks)
    # To search the fastest kernels pays only where sizes come again.
    torch.backends.cudnn.benchmark = job.recipe.fit != "pad"
    state = TrainingState.initial(job)
    unscored = False
    if ranks.is_first:
        checkpoint.recover(job.out / "checkpoints")
    ranks.meet()
    if found := checkpoint.newest(job.out / "checkpoints"):
        came_from, saved = checkpoint.load(found / checkpoint.BLOB)
        job.must_fit(came_from)
        state.load_state_dict(saved)
        unscored = came_from.miou is None and state.step % job.order.steps_per_epoch == 0
    elif job.recipe.pretrained:
        if ranks.is_first:  # they may have to be downloaded
            state.load_pretrained()
        ranks.take_from_first(state.net)

    with ExitStack() as stack:
        journal = Journal(job.out, state.step) if ranks.is_first else NoJournal()
        stack.enter_context(journal)
        stack.enter_context(
            fed_to_wandb(folder, wandb if ranks.is_first else "disabled", wandb_patience)
        )
        if ranks.any(journal.finished):
            return True
        if state.step:
            print(f"going on from step {state.step} of {job.order.total_steps}", flush=True)
        else:
            unknown_yet = {"step", "epoch", "miou", "iou"}
            journal.write("start", 0, **job.origin.model_dump(mode="json", exclude=unknown_yet))
        writes = partial(Saver, job.out / "checkpoints", keep_step, state.step)
        saver = stack.enter_context(writes() if ranks.is_first else NoSaver())

        def heed(*_: int) -> None:
            saver.look()
            if ranks.any(stop()):
                raise _Stopped

        if job.train.stream:
            job.train.stream.heed = heed
        training = Training(job, state, journal, saver, heed)
        try:
            if unscored:  # it was stopped while validating
                training.end_epoch(None)
                saver.wait()  # loader processes must not be forked off beside a thread
            training.run(workers, save_every, keep_step)
        except _Stopped:
            if saver.newest != state.step:  # else it would replace one that may be scored
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
        batches = training_batches(
            *(job.train, job.recipe, job.order, workers),
            start=state.step,
            device=job.device,
            ranks=job.ranks,
            heed=self.heed,
        )
        for batch in batches:
            lr = float(state.schedule.get_last_lr()[0])
            loss = training_step(job, state, batch)
            speed.images += job.order.batch_size
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
        job.ranks.take_from_first(state.predicting)  # batch norm's averages are each rank's own
        predictor = Predictor.of(state.predicting, job.recipe, job.device)
        scored = evaluate(
            *(predictor, job.val, job.own_loss), keep=pictured, report=self.heed, ranks=job.ranks
        )
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
    job.ranks.seed(recipe.seed, state.step)
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


def main() -> int:
    """Command line; 0 done, 1 training failed, 2 wrong input, 143 stopped and resumable.

    Of several ranks it ends for all with what the first of them to fail had met.
    """
    args = options(__doc__)
    job: Path = args.job.resolve()
    ranks = Ranks.from_environment()
    stopping: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        stopping.append(number)

    try:
        wanted = one_a_gpu(args.device) if args.ranks is None else args.ranks
        if ranks.world == 1 and wanted > 1 and (several := shared_by(job, wanted)) > 1:
            return launch(job, several, sys.argv[1:])
        with ExitStack() as stack:
            if ranks.is_first:
                stack.enter_context(alone_in(job))
                failures.forget(job)
            else:
                sys.stdout = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(ranks.joined(args.device))
            signal.signal(signal.SIGTERM, on_signal)  # until here there is nothing to save
            signal.signal(signal.SIGINT, on_signal)
            torch.set_num_threads(args.threads or default_threads(ranks.world))
            os.environ[MIRROR] = args.weights_url
            done = train(
                job,
                run_id=args.run_id or job.name,
                device=args.device,
                workers=default_workers(ranks.world) if args.workers is None else args.workers,
                stop=lambda: bool(stopping) or ranks.orphaned,
                save_every=args.save_every,
                keep_step=args.keep_step,
                wandb=args.wandb,
                wandb_patience=args.wandb_patience,
                ranks=ranks,
            )
        return 0 if done else STOPPED
    except Exception as error:
        if lost_another(error):  # whose word counts
            said = str(error).partition(". ")[0]
            print(f"rank {ranks.rank} has lost another: {said}", file=sys.stderr, flush=True)
            return 1
        return failures.leave(job, error)


if __name__ == "__main__":
    sys.exit(main())
