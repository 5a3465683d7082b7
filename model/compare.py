"""Two nets on the same images, at the images' own size: who is better, and where they disagree."""

import heapq
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.bootstrap import judge
from model.dataset import Dataset
from model.errors import InputError
from model.images import Image
from model.inference import Predictor
from model.manifest import VOID
from model.metrics import ConfusionMatrix
from model.recipe import Recipe
from model.verdict import Verdict

SHOWN = 6  # images of most disagreement that a person is shown


class Dispute(NamedTuple):
    """An image on which two nets disagree: share of its pixels, and both predictions [H, W]."""

    share: float
    position: int  # in the split
    challenger: Image
    champion: Image


@dataclass(frozen=True)
class Comparison:
    """A verdict, and the images of most disagreement, most first."""

    verdict: Verdict
    disputes: tuple[Dispute, ...]


def compare(
    challenger: Path,
    champion: Path | None,
    data: Dataset,
    recipe: Recipe,
    *,
    only: Collection[str] | None = None,
    device: str = "auto",
    report: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Hold two checkpoint files against each other by the same code on the same images.

    Args:
        champion: without one, the challenger has to beat a net that sees background everywhere.
        data: the split to predict, each image in one piece and at its own size.
        recipe: whose `promotion_…` settings say what better means.
        only: ids of the images that count; None for all.

    Raises InputError where one of them knows other classes than the dataset.
    """
    classes = data.manifest.classes
    ours = _predictor(challenger, classes, device)
    theirs = _predictor(champion, classes, device) if champion else None
    wanted = [n for n, sample in enumerate(data.samples) if only is None or sample.id in only]
    counts = np.zeros((2, len(wanted), 3, len(classes)), np.int64)

    def disputes() -> Iterator[Dispute]:
        for done, position in enumerate(wanted):
            sample = data[position]
            truth = torch.from_numpy(sample.mask)
            first = _predicted(ours, sample.photo)
            second = _predicted(theirs, sample.photo) if theirs else torch.zeros_like(truth)
            for net, prediction in enumerate((first, second)):
                counts[net, done] = _counted(prediction, truth, len(classes))
            if report:
                report(done + 1, len(wanted))
            differs = ((first != second) & (truth != VOID)).float().mean().item()
            if differs > 0:
                yield Dispute(differs, position, first.numpy(), second.numpy())

    # One pass over the images; no more predictions are in memory than are shown.
    most = heapq.nlargest(SHOWN, disputes(), key=lambda one: one.share)
    verdict = judge(
        counts[0],
        counts[1],
        classes,
        confidence=recipe.promotion_confidence,
        margin=recipe.promotion_margin,
        # All background is very good at background.
        class_drop=recipe.promotion_class_drop if theirs else None,
    )
    return Comparison(verdict, tuple(most))


def _predictor(path: Path, classes: tuple[str, ...], device: str) -> Predictor:
    predictor, description = Predictor.load(path, device)
    if description.classes != classes:
        raise InputError(
            f"{path} knows the classes {', '.join(description.classes)}, the dataset has "
            f"{', '.join(classes)}; what knows other classes cannot be compared."
        )
    return predictor


def _predicted(predictor: Predictor, photo: Image) -> Tensor:
    """Class indices uint8 [H, W], on the CPU."""
    return predictor.logits(photo).argmax(0).to(torch.uint8).cpu()


def _counted(prediction: Tensor, truth: Tensor, classes: int) -> np.ndarray:
    """int64 [3, C]: pixels hit, true, predicted."""
    confusion = ConfusionMatrix(classes)
    confusion.update(prediction, truth)
    counts = confusion.counts
    return torch.stack([counts.diag(), counts.sum(1), counts.sum(0)]).numpy()
