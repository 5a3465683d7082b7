"""Whether one net is better than another: a paired bootstrap over images.

Both nets predict the same images. The images are drawn again, with replacement and for both nets
alike, and each draw has its own difference of the two mIoUs, from pixels that are summed over the
draw as they are over the whole set. The middle 95 % of these differences are the interval
(percentile method: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13).
"""

import numpy as np
import numpy.typing as npt

from model.counted import counted
from model.errors import InputError
from model.verdict import Verdict

Counts = npt.NDArray[np.int64]  # [N images, 3, C classes]: pixels hit, true, predicted

_DRAWS = 10_000
_AT_ONCE = 500  # draws in memory


def judge(
    challenger: Counts,
    champion: Counts,
    classes: tuple[str, ...],
    *,
    confidence: float,
    margin: float,
    class_drop: float | None,
    seed: int = 0,
) -> Verdict:
    """Hold the counts of two nets on the same images against each other.

    Args:
        confidence: of the interval, such as 0.95.
        margin: mIoU that the interval's lower end must exceed.
        class_drop: IoU that any class may lose; None where no class counts by itself.

    Raises InputError where there are fewer than two images, whose scatter nobody can know.
    """
    if challenger.shape != champion.shape:
        raise ValueError(f"{challenger.shape} and {champion.shape} are not of the same images.")
    images = len(challenger)
    if images < 2:
        raise InputError(
            f"{counted(images, 'image')} cannot tell which of two nets is better; the validation "
            "split needs more."
        )
    differences = np.empty(_DRAWS)
    random = np.random.default_rng(seed)
    even = np.full(images, 1 / images)
    for start in range(0, _DRAWS, _AT_ONCE):
        times = random.multinomial(images, even, size=min(_AT_ONCE, _DRAWS - start))
        drawn = _miou(_summed(times, challenger)) - _miou(_summed(times, champion))
        differences[start : start + len(drawn)] = drawn
    tail = (1 - confidence) / 2
    low, high = np.quantile(differences, (tail, 1 - tail))
    of_both = (iou(challenger.sum(0)), iou(champion.sum(0)))
    by_class = {
        name: (_or_none(ours), _or_none(theirs))
        for name, ours, theirs in zip(classes, *of_both, strict=True)
    }
    return Verdict(
        images=images,
        challenger=float(_miou(challenger.sum(0))),
        champion=float(_miou(champion.sum(0))),
        low=float(low),
        high=float(high),
        confidence=confidence,
        margin=margin,
        by_class=by_class,
        worse=() if class_drop is None else tuple(_worse(by_class, class_drop)),
    )


def iou(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """IoU [..., C] of counts [..., 3, C]; NaN for a class in neither truth nor prediction."""
    hits, true, predicted = (counts[..., part, :] for part in range(3))
    with np.errstate(invalid="ignore"):
        return np.asarray(hits / (true + predicted - hits), np.float64)


def _miou(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """As `ConfusionMatrix.miou`: the mean over classes in truth or prediction, 0 without any."""
    of_class = iou(counts)
    there = ~np.isnan(of_class)
    total = np.where(there, of_class, 0).sum(-1)
    return np.asarray(total / np.maximum(there.sum(-1), 1), np.float64)


def _summed(times: npt.NDArray[np.int64], counts: Counts) -> Counts:
    """Counts [draws, 3, C] of draws that take each image so many `times`.

    As floats, which BLAS multiplies and which are exact for up to 2**53 pixels.
    """
    images = len(counts)
    flat = times.astype(np.float64) @ counts.reshape(images, -1).astype(np.float64)
    return flat.astype(np.int64).reshape(len(times), *counts.shape[1:])


def _worse(by_class: dict[str, tuple[float | None, float | None]], class_drop: float) -> list[str]:
    """A class that only the champion knew is lost; where neither has a score, nothing is."""
    return [
        name
        for name, (ours, theirs) in by_class.items()
        if theirs is not None and (ours or 0.0) < theirs - class_drop
    ]


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
