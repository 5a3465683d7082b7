"""Losses for segmentation, and the weighted sum of them that a recipe names.

A void pixel counts for nothing: its logits are replaced before the softmax, so that not even an
infinity there reaches the value or the gradient.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from model.dataset import VOID
from model.loss_terms import parse_loss
from model.recipe import Recipe

Loss = Callable[[Tensor, Tensor], Tensor]


def build_loss(recipe: Recipe) -> Loss:
    """The recipe's loss, such as ``tversky + cross_entropy``.

    ``tversky`` takes the recipe's weights; ``dice`` and ``jaccard`` are the same index with
    alpha = beta = 0.5 (Sudre et al. 2017, arXiv:1707.03237) and 1 (Rahman and Wang 2016,
    doi:10.1007/978-3-319-50835-1_22).

    Returns:
        a function of logits, float [N, C, H, W], and target, uint8 or int64 [N, H, W], that
        returns a scalar in float32 (float64 for float64 logits), also under autocast. A batch of
        nothing but void gives 0 with gradient 0. It raises ValueError where the shapes do not
        match; torch raises on a target outside 0..C-1 that is not void.
    """
    weights = parse_loss(recipe.loss)
    indices = {
        "tversky": (recipe.tversky_alpha, recipe.tversky_beta),
        "dice": (0.5, 0.5),
        "jaccard": (1.0, 1.0),
    }

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        log_probs, truth = _without_void(logits, target)
        total = log_probs.new_zeros(())
        for name, weight in weights.items():
            if name == "cross_entropy":
                term = cross_entropy(log_probs, truth)
            else:
                term = tversky(log_probs, truth, *indices[name])
            total = total + weight * term
        return total

    return loss


def cross_entropy(log_probs: Tensor, truth: Tensor) -> Tensor:
    """Mean of -log p(true class) over the pixels that are not void; 0 if all are.

    Args:
        log_probs: float [N, C, H, W], normalised over C.
        truth: bool [N, C, H, W], one-hot over C; no class at void pixels.
    """
    return -log_probs.where(truth, 0).sum() / truth.sum().clamp(min=1)


def tversky(log_probs: Tensor, truth: Tensor, alpha: float, beta: float) -> Tensor:
    """One minus the Tversky index (Salehi et al. 2017, arXiv:1706.05721), averaged over classes:
    ``1 - TP / (TP + alpha FP + beta FN)`` with probabilities in the place of counts.

    The sums of a class run over the whole batch, since most photos hold few of the classes. The
    average runs over the classes present in the batch's target: one that is absent has TP = 0 and
    so a loss of 1 whatever the net says, which would add a constant and shrink every gradient.
    What the net wrongly gives to it is missing from the class that is there. With beta > 0 a
    present class has a positive denominator, so no smoothing constant is needed.

    Args:
        log_probs: float [N, C, H, W], normalised over C.
        truth: bool [N, C, H, W], one-hot over C; no class at void pixels.
        alpha: weight of false positives, at least 0.
        beta: weight of false negatives, above 0.
    """
    probs = log_probs.exp()
    pixels = (0, 2, 3)
    predicted = probs.where(truth.any(dim=1, keepdim=True), 0).sum(pixels)
    true_positives = probs.where(truth, 0).sum(pixels)
    actual = truth.sum(pixels)
    present = actual > 0
    denominator = (
        true_positives + alpha * (predicted - true_positives) + beta * (actual - true_positives)
    )
    # Absent classes divide by 1: a 0 / 0 that is masked only afterwards still has a NaN gradient.
    index = true_positives / denominator.where(present, 1)
    return (1 - index).where(present, 0).sum() / present.sum().clamp(min=1)


def _without_void(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities, at least float32 [N, C, H, W], and one-hot truth, bool [N, C, H, W]."""
    if target.shape != logits.shape[:1] + logits.shape[2:]:
        raise ValueError(
            f"Logits {list(logits.shape)} need a target [N, H, W], not {list(target.shape)}."
        )
    # Sums over thousands of pixels need more than the 8 or 11 bits of half precision.
    if logits.dtype != torch.float64:
        logits = logits.float()
    target = target.long().unsqueeze(1)
    void = target == VOID
    log_probs = logits.masked_fill(void, 0).log_softmax(dim=1)
    # scatter_ checks the range of the target, which a comparison with 0..C-1 would not.
    truth = torch.zeros_like(logits, dtype=torch.bool)
    truth = truth.scatter_(1, target.masked_fill(void, 0), ~void)
    return log_probs, truth
