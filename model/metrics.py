"""Scores of a segmentation, all from one confusion matrix over the whole set.

A mean of per-image scores is another number: it counts a class once for each photo that holds it,
however few its pixels. PASCAL VOC (Everingham et al. 2015, doi:10.1007/s11263-014-0733-5) sums
pixels over the whole set first, and so do we.
"""

import torch
from torch import Tensor

from model.errors import InputError
from model.manifest import VOID


class ConfusionMatrix:
    """Pixel counts by true and predicted class.

    Attributes:
        counts: int64 [C, C], row = true class, column = predicted class; on the device of the
            tensors of the latest update.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count the pixels whose target is not void.

        Args:
            prediction: uint8 or int64, [N, H, W] or [H, W], classes 0..C-1.
            target: the same shape, uint8 or int64, classes 0..C-1 or void.

        Raises:
            ValueError: the shapes differ.
            InputError: a class outside 0..C-1, in the target or, where that is not void, in the
                prediction. Nothing of the batch is counted then.
        """
        if prediction.shape != target.shape:
            raise ValueError(
                f"Prediction {list(prediction.shape)} and target {list(target.shape)} differ."
            )
        counted = target != VOID
        truth, guess = target[counted].long(), prediction[counted].long()
        self._check("target", truth)
        self._check("prediction", guess)
        cells = truth * self.num_classes + guess
        counts = torch.bincount(cells, minlength=self.num_classes**2)
        self.counts = self.counts.to(counts.device) + counts.view_as(self.counts)

    def iou(self) -> Tensor:
        """TP / (TP + FP + FN), float64 [C] on the CPU; NaN for a class that occurs in neither
        truth nor prediction."""
        hits, actual, predicted = self._totals()
        return hits / (actual + predicted - hits)

    def dice(self) -> Tensor:
        """2 TP / (2 TP + FP + FN), float64 [C] on the CPU; NaN as in `iou`."""
        hits, actual, predicted = self._totals()
        return 2 * hits / (actual + predicted)

    def miou(self) -> float:
        """Mean of `iou` over the classes that occur in truth or prediction; 0.0 if none does.

        A class that is predicted but never true counts, as 0: to invent one must cost.
        """
        return _mean(self.iou())

    def mean_dice(self) -> float:
        """Mean of `dice` over the same classes as in `miou`; 0.0 if there is none."""
        return _mean(self.dice())

    def pixel_accuracy(self) -> float:
        """Share of the counted pixels whose class is right; 0.0 if none was counted."""
        hits, actual, _ = self._totals()
        return float(hits.sum() / actual.sum().clamp(min=1))

    def _totals(self) -> tuple[Tensor, Tensor, Tensor]:
        # On the CPU, since MPS has no float64; float64 is exact up to 2**53 pixels.
        counts = self.counts.cpu().double()
        return counts.diag(), counts.sum(dim=1), counts.sum(dim=0)

    def _check(self, name: str, classes: Tensor) -> None:
        # Without this an index too large would be counted in another row, or as another class.
        if classes.numel() == 0:
            return
        low, high = (int(bound) for bound in classes.aminmax())
        if low < 0 or high >= self.num_classes:
            wrong = low if low < 0 else high
            raise InputError(
                f"The {name} has class {wrong}, outside 0..{self.num_classes - 1} "
                f"(void is {VOID}); check that the masks and the net "
                "were made for the same classes."
            )


def _mean(scores: Tensor) -> float:
    """Over the classes that have one."""
    return 0.0 if bool(scores.isnan().all()) else float(scores.nanmean())
