"""Find a learning rate: train for some steps while it rises, and look where the loss falls.

    python -m model.lr_find JOB [--steps 100] [--low 1e-7] [--high 1] [--out lr-find.png] [--json]

JOB is a folder with `recipe.json` and `dataset/`, as for training; nothing is written to it but the
traceback of an error that nobody foresaw. This is the learning-rate range test of Smith (2017,
arXiv:1506.01186), with rates that rise exponentially. Two rates are suggested: where the smoothed
loss falls most steeply over the rate's logarithm, at most a third of the rate of its first minimum,
and a tenth of that rate. Either is a peak for `--set lr=…`. A fall that does not stand out from the
noise of the losses is said to be none.
"""

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.optim.lr_scheduler import ExponentialLR

from model import failures
from model.device import default_threads, default_workers
from model.errors import InputError
from model.job import Job
from model.learning_rates import LearningRates
from model.loader import training_batches
from model.manifest import VOID
from model.state import TrainingState
from model.train import training_step

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOW, HIGH, STEPS = 1e-7, 1.0, 100
_SMOOTHING = 0.8  # decay of the moving average that ends the test
_DIVERGED = 4.0  # times its least
_FEWEST = 20  # steps that say anything


def moving_average(losses: list[float]) -> float:
    """Exponential, corrected for its bias to 0 (Kingma and Ba, arXiv:1412.6980)."""
    mean = 0.0
    for loss in losses:
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
    return mean / (1 - _SMOOTHING ** len(losses))


def must_be_range(low: float, high: float, steps: int) -> None:
    """InputError for a range of rates, or a number of steps, that nothing could be read off."""
    if not 0 < low < high <= 1000 or steps < _FEWEST:
        raise InputError(
            f"A range test goes from a low to a high rate above 0, in {_FEWEST} steps or more; "
            f"{low:g} to {high:g} in {steps} is none."
        )


def find_lr(
    job: Job,
    *,
    low: float = LOW,
    high: float = HIGH,
    steps: int = STEPS,
    workers: int = 0,
    report: Callable[[int, int, str], None] = lambda *_: None,
) -> LearningRates:
    """Train the job's net from its first weights, for `steps` with rates from `low` to `high`.

    It ends early where the moving average of the loss exceeds four times its least, or is not
    finite. Nothing is written; `report` hears (done, total, words). Raises InputError for a range
    that is none.
    """
    must_be_range(low, high, steps)
    recipe = job.recipe.override({"schedule": "constant", "warm_up": 0.0, "lr": min(low, 10)})
    epochs = math.ceil(steps / job.order.steps_per_epoch)
    order = job.order.lasting(epochs)
    job = replace(job, recipe=recipe, order=order)
    state = TrainingState.initial(job)
    if recipe.pretrained:
        state.load_pretrained()
    state.schedule = ExponentialLR(state.optimiser, (high / low) ** (1 / (steps - 1)))
    state.net.train()
    rates: list[float] = []
    losses: list[float] = []
    best, diverged = math.inf, False
    batches = training_batches(job.train, recipe, order, workers, device=job.device)
    # The steps first: asked the other way round, it would decode a batch that nobody trains on.
    for step, batch in zip(range(1, steps + 1), batches, strict=False):
        if bool((batch.targets == VOID).all()):  # its loss is 0, whatever the rate
            continue
        rates.append(float(state.schedule.get_last_lr()[0]))
        loss = float(training_step(job, state, batch))
        now = moving_average([*losses, loss])
        best = min(best, now)
        if not math.isfinite(loss) or now > _DIVERGED * best:
            rates.pop()
            diverged = True
            break
        losses.append(loss)
        report(step, steps, f"rate {rates[-1]:.1e}  loss {now:.4f}")
    return LearningRates.of(rates, losses, diverged)


def plot(found: LearningRates, title: str) -> "Figure":
    """The losses over the rates, with both suggestions marked; `savefig` it."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("The plot needs the package matplotlib: pip install matplotlib.") from None
    # A figure of its own, without pyplot: no window, and nothing that outlives it.
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(found.rates, found.losses, ".", color="0.75", markersize=4, label="loss of a step")
    axes.plot(found.rates, found.smoothed, color="tab:blue", linewidth=2, label="smoothed")
    for rate, colour, name in (
        (found.steepest, "tab:red", "steepest descent" if found.clear else "unsure, best guess"),
        (found.tenth_of_minimum, "tab:green", "first minimum / 10"),
    ):
        axes.axvline(rate, color=colour, linestyle="--", label=f"{name}: {rate:.1e}")
    shown = np.concatenate([found.smoothed, np.percentile(found.losses, [2, 98])])
    margin = 0.08 * float(np.ptp(shown)) or 0.1
    axes.set_ylim(float(shown.min()) - margin, float(shown.max()) + margin)
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss", title=title)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def save_plot(found: LearningRates, title: str, path: Path) -> None:
    """Write it as a PNG of 1200 x 750 pixels; InputError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        plot(found, title).savefig(path, format="png", dpi=150)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); set --out.") from None


def main() -> int:
    """Command line; 0 done, 1 training failed, 2 wrong input, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m model.lr_find",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("job", type=Path, help="folder with recipe.json and dataset/")
    parser.add_argument("--low", type=float, default=LOW, help="first rate (%(default)g)")
    parser.add_argument("--high", type=float, default=HIGH, help="last rate (%(default)g)")
    parser.add_argument("--steps", type=int, default=STEPS, help="batches (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("lr-find.png"), help="(%(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument(
        "--workers", type=int, default=default_workers(), help="loader processes (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    torch.set_num_threads(default_threads())
    try:
        job = Job.open(args.job, args.job.name, args.device)
        found = find_lr(job, low=args.low, high=args.high, steps=args.steps, workers=args.workers)
        save_plot(found, job.recipe.name, args.out)
    except Exception as error:
        cause, message = failures.explain(args.job, error)
        print(message, file=sys.stderr)
        return 2 if cause == "BAD_INPUT" else 1
    except KeyboardInterrupt:
        return 130
    print(found.model_dump_json() if args.json else f"{found.in_words()}\n{args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
