"""Losses for segmentation, and the weighted sum of them that a recipe names.

Whatever the net says of a void pixel, even an infinity, reaches neither value nor gradient. On a
CPU the pixels that are not void are gathered first, in their order, and everything after sees only
them: that is less work, and a batch that is padded with void gives the same value to the last bit.
A GPU would have to be waited for, at every step, to know how many they are: there void pixels stay
and are summed as zeros, which gives the same but for rounding.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from model.errors import InputError
from model.loss_terms import parse_loss
from model.manifest import VOID
from model.ranks import ALONE, Ranks
from model.recipe import Recipe

Loss = Callable[[Tensor, Tensor], Tensor]


def build_loss(
    recipe: Recipe, weights: Sequence[float] | None = None, ranks: Ranks = ALONE
) -> Loss:
    """The recipe's loss, such as ``tversky + cross_entropy``.

    ``tversky`` takes the recipe's weights; ``dice`` and ``jaccard`` are the same index with
    alpha = beta = 0.5 (Sudre et al. 2017, arXiv:1707.03237) and 1 (Rahman and Wang 2016,
    doi:10.1007/978-3-319-50835-1_22). ``bce`` of two classes is ``cross_entropy``.

    Args:
        weights: of the classes, from `class_weights`. In ``cross_entropy``, ``bce`` and ``focal``
            a pixel weighs what its true class does; the other terms are averages over classes.
        ranks: whose batches make one: the loss is that of all their pixels, the same at each.

    Returns:
        a function of logits, float [N, C, H, W], and target, uint8 or int64 [N, H, W], that
        returns a scalar in float32 (float64 for float64 logits), also under autocast. A batch of
        nothing but void gives 0 with gradient 0. It raises ValueError where the shapes do not
        match; torch raises on a target outside 0..C-1 that is not void.

    Raises:
        ValueError: weights are missing where the recipe wants them, or given where it does not.
    """
    if (weights is None) != (recipe.class_weights == "none"):
        raise ValueError(f"class_weights={recipe.class_weights} does not go with {weights=}.")
    terms: dict[str, Callable[[Pixels], Tensor]] = {
        "cross_entropy": cross_entropy,
        "bce": bce,
        "dice": partial(tversky, alpha=0.5, beta=0.5),
        "jaccard": partial(tversky, alpha=1.0, beta=1.0),
        "tversky": partial(tversky, alpha=recipe.tversky_alpha, beta=recipe.tversky_beta),
        "focal": partial(focal, gamma=recipe.focal_gamma),
        "lovasz": lovasz,
    }
    wanted = [(factor, terms[name]) for name, factor in parse_loss(recipe.loss).items()]

    @cache  # to copy them to a GPU at every step would wait for it
    def weights_at(device: torch.device, dtype: torch.dtype) -> Tensor | None:
        return None if weights is None else torch.tensor(weights, device=device, dtype=dtype)

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        taken = Pixels.gathered if logits.device.type == "cpu" else Pixels.masked
        pixels = taken(logits, target, ranks)
        pixels = replace(pixels, weights=weights_at(pixels.logits.device, pixels.logits.dtype))
        return torch.stack([factor * term(pixels) for factor, term in wanted]).sum()

    return loss


def class_weights(recipe: Recipe, counts: Sequence[int]) -> tuple[float, ...] | None:
    """What the recipe's ``class_weights`` makes of the training split's pixel counts by class.

    With p the share of a class in all pixels that are not void: ``median-frequency`` is
    median(p) / p (Eigen and Fergus 2015, arXiv:1411.4734, who take p over the photos that show the
    class), ``log`` is 1 / ln(1.02 + p) (Paszke et al. 2016, arXiv:1606.02147). A class without
    a pixel weighs 0 and has no part in the median: nothing can be learned of it. The weights need
    no common scale, which cancels in a weighted mean.

    Returns:
        a weight for each class, or None where the recipe wants none.

    Raises:
        InputError: there is no pixel at all.
    """
    if recipe.class_weights == "none":
        return None
    total = sum(counts)
    if total == 0:
        raise InputError(
            f"class_weights={recipe.class_weights} needs labelled pixels, and the training split "
            "has nothing but void; check the masks, or set class_weights=none."
        )
    shares = [count / total for count in counts]
    if recipe.class_weights == "log":
        return tuple(1 / math.log(1.02 + share) if share else 0.0 for share in shares)
    middle = median(share for share in shares if share)
    return tuple(middle / share if share else 0.0 for share in shares)


@dataclass(frozen=True)
class Pixels:
    """P pixels of a batch, with what the terms share; those that do not count are void.

    Attributes:
        logits: float32 or float64 [P, C]; 0 where a pixel does not count.
        classes: int64 [P], the true ones; 0 where a pixel does not count.
        counted: bool [P], False where void.
        ranks: who holds the other pixels of the batch; every sum here runs over theirs, too.
        weights: as logits, [C]; None: all pixels weigh the same.
    """

    logits: Tensor
    classes: Tensor
    counted: Tensor
    ranks: Ranks = ALONE
    weights: Tensor | None = None

    @classmethod
    def gathered(cls, logits: Tensor, target: Tensor, ranks: Ranks = ALONE) -> "Pixels":
        """Only those that count, of a batch as `build_loss` takes it."""
        logits, target = _one_a_row(logits, target)
        # An index is faster than a mask, above all backwards.
        kept = (target != VOID).nonzero().squeeze(1)
        classes = target[kept].long()
        return cls(_wide(logits[kept]), classes, torch.ones_like(classes, dtype=torch.bool), ranks)

    @classmethod
    def masked(cls, logits: Tensor, target: Tensor, ranks: Ranks = ALONE) -> "Pixels":
        """All of them: shapes that do not depend on values, so that nobody waits for the device."""
        logits, target = _one_a_row(logits, target)
        counts = target != VOID
        return cls(
            _wide(logits).where(counts[:, None], 0), target.long().where(counts, 0), counts, ranks
        )

    def of_all_ranks(self) -> "Pixels":
        """The pixels of the whole batch, for what is no function of sums."""
        own = self.logits, self.classes, self.counted.byte()  # which every backend can send
        logits, classes, counts = map(self.ranks.gathered, own)
        return Pixels(logits, classes, counts.bool(), weights=self.weights)

    @cached_property
    def log_probs(self) -> Tensor:
        """Logarithms of the softmax over classes, as `logits`."""
        return self.logits.log_softmax(dim=1)

    @cached_property
    def probs(self) -> Tensor:
        """The softmax over classes, as `logits`; 0 where a pixel does not count."""
        return self.log_probs.exp().where(self.counted[:, None], 0)

    @cached_property
    def truth(self) -> Tensor:
        """One-hot over classes, bool [P, C]; nothing where a pixel does not count."""
        nowhere = torch.zeros_like(self.logits, dtype=torch.bool)
        # It checks the range of the classes, which a comparison with 0..C-1 would not.
        return nowhere.scatter_(1, self.classes[:, None], self.counted[:, None])

    @cached_property
    def actual(self) -> Tensor:
        """How many pixels of the batch each class has, int64 [C]."""
        return self.total(self.truth.sum(dim=0))

    def total(self, own: Tensor) -> Tensor:
        """A sum over these pixels as one over those of all ranks."""
        return self.ranks.total(own)

    def mean(self, losses: Tensor) -> Tensor:
        """The weighted mean of a loss a pixel, [P]; 0 if there is no pixel, or none that weighs."""
        weights = self.counted.to(losses.dtype)
        if self.weights is not None:
            weights = weights * self.weights[self.classes]
        total = self.total(weights.sum())
        return self.total((weights * losses).sum()) / total.where(total > 0, 1)

    def mean_of_present(self, losses: Tensor) -> Tensor:
        """The mean of a loss a class, [C], over the classes present; 0 if there is no pixel.

        The loss of a class is that of the whole batch.

        A class that is absent has an overlap of 0 and so a loss of 1 whatever the net says, which
        would add a constant and shrink every gradient. What the net wrongly gives to it is missing
        from the class that is there.
        """
        present = self.actual > 0
        return losses.where(present, 0).sum() / present.sum().clamp(min=1)


def _one_a_row(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """[P, C] and [P] of a batch; ValueError where the shapes do not match."""
    if target.shape != logits.shape[:1] + logits.shape[2:]:
        raise ValueError(
            f"Logits {list(logits.shape)} need a target [N, H, W], not {list(target.shape)}."
        )
    return logits.movedim(1, -1).flatten(0, 2), target.flatten()


def _wide(logits: Tensor) -> Tensor:
    """Sums over thousands of pixels need more than the 8 or 11 bits of half precision."""
    return logits if logits.dtype == torch.float64 else logits.float()


def cross_entropy(pixels: Pixels) -> Tensor:
    """Weighted mean of -log p over pixels, p being the probability of the true class."""
    return pixels.mean(_nll(pixels))


def focal(pixels: Pixels, gamma: float) -> Tensor:
    """Weighted mean of -(1 - p)^gamma log p (Lin et al. 2017, arXiv:1708.02002), p the softmax's
    probability of the true class; with gamma = 0 it is the cross-entropy."""
    nll = _nll(pixels)
    # Without the bound, 0 to a power below 1 has an infinite slope, and NaN in the gradient.
    doubt = (-nll).expm1().neg().clamp(min=torch.finfo(nll.dtype).tiny)
    return pixels.mean(doubt**gamma * nll)


def _nll(pixels: Pixels) -> Tensor:
    """Negative log-likelihood of each pixel's true class, [P]."""
    return -pixels.log_probs.gather(1, pixels.classes[:, None]).squeeze(1)


def bce(pixels: Pixels) -> Tensor:
    """Binary cross-entropy with logits.

    More than two classes are one against the rest: each class has its own sigmoid, and a pixel's
    loss is the mean over classes. Two classes have one sigmoid, that of the difference of their
    logits, as a net with a single output channel would; this is their cross-entropy.
    """
    if pixels.logits.shape[1] == 2:
        return cross_entropy(pixels)
    truth = pixels.truth.to(pixels.logits.dtype)
    each = F.binary_cross_entropy_with_logits(pixels.logits, truth, reduction="none")
    return pixels.mean(each.mean(dim=1))


def tversky(pixels: Pixels, alpha: float, beta: float) -> Tensor:
    """One minus the Tversky index (Salehi et al. 2017, arXiv:1706.05721), averaged over the
    classes present: ``1 - TP / (TP + alpha FP + beta FN)``, probabilities in the place of counts.

    The sums of a class run over the whole batch, since most photos hold few of the classes. With
    beta > 0 a present class has a positive denominator, so no smoothing constant is needed.

    Args:
        alpha: weight of false positives, at least 0.
        beta: weight of false negatives, above 0.
    """
    predicted, actual = pixels.total(pixels.probs.sum(dim=0)), pixels.actual
    hits = pixels.total(pixels.probs.where(pixels.truth, 0).sum(dim=0))
    union = hits + alpha * (predicted - hits) + beta * (actual - hits)
    # Absent classes divide by 1: a 0 / 0 that is masked only afterwards still has a NaN gradient.
    return pixels.mean_of_present(1 - hits / union.where(actual > 0, 1))


def lovasz(pixels: Pixels) -> Tensor:
    """Lovász-softmax (Berman et al. 2018, arXiv:1705.08790) over the whole batch, averaged over
    the classes present: the Lovász extension of one minus the Jaccard index.

    The pixels are taken in the order of their errors, greatest first; each error counts by how
    much one minus the index grows when that pixel is wrong too. So each rank needs those of all.
    """
    pixels = pixels.of_all_ranks()
    errors = pixels.probs.where(~pixels.truth, 1 - pixels.probs).T
    errors, order = errors.sort(dim=1, descending=True, stable=True)
    truth = pixels.truth.T.gather(1, order)
    actual = truth.sum(dim=1, keepdim=True)
    intersection = actual - truth.cumsum(dim=1)
    union = actual + (~truth).cumsum(dim=1)
    # A difference of neighbouring indices would be lost in rounding: over a million pixels they
    # are a millionth apart. A pixel of the class takes 1 from the intersection, others add 1 to
    # the union; worked out, the difference is this. (An absent class has no union at first.)
    others = intersection / (union - 1).clamp(min=1).to(errors.dtype)
    growth = others.where(~truth, 1) / union
    return pixels.mean_of_present((errors * growth).sum(dim=1))
