"""The recipe's optimiser and learning-rate schedule."""

import math
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from model.recipe import Recipe


def build_optimiser(recipe: Recipe, net: nn.Module) -> Optimizer:
    """The optimiser that the recipe names, for a net that is on its device already.

    Biases and norm weights are not decayed. ``adamw`` shrinks the weights themselves (Loshchilov
    and Hutter 2019, arXiv:1711.05101); ``adam`` (Kingma and Ba 2015, arXiv:1412.6980) and ``sgd``
    add the decay to the gradient. The recipe's momentum is that of SGD, without Nesterov's
    variant, and Adam's first beta; the second is 0.999.
    """
    decayed = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    # One kernel for the whole update; None leaves the choice to torch.
    fused = True if next(net.parameters()).device.type in ("cpu", "cuda") else None
    betas = (recipe.momentum, 0.999)
    match recipe.optimiser:
        case "adamw":
            return AdamW(groups, lr=recipe.lr, betas=betas, fused=fused)
        case "adam":
            return Adam(groups, lr=recipe.lr, betas=betas, fused=fused)
        case "sgd":
            return SGD(groups, lr=recipe.lr, momentum=recipe.momentum, fused=fused)


def build_schedule(
    recipe: Recipe, optimiser: Optimizer, total_steps: int, steps_per_epoch: int
) -> LRScheduler:
    """The schedule that the recipe names, over `total_steps`, stepped once an update.

    ``one-cycle`` (Smith and Topin 2019, arXiv:1708.07120) rises to the recipe's rate over the
    share `warm_up` of the steps and falls to almost nothing; while the rate rises, the momentum,
    or Adam's first beta, falls from 0.95 to 0.85, and back. A recipe without momentum stays
    without. The others rise linearly during `warm_up` (Goyal et al. 2017, arXiv:1706.02677), then
    start from the recipe's rate:

    - ``cosine-restarts`` (Loshchilov and Hutter 2017, arXiv:1608.03983): half a cosine down to 0,
      again and again; the first takes `restart_epochs`, each later one `restart_factor` times the
      one before.
    - ``polynomial`` (Chen et al. 2018, arXiv:1606.00915): (1 - share of the steps done)^power.
    - ``constant``.
    """
    if recipe.schedule == "one-cycle":
        # OneCycleLR divides by the length of each phase, so it needs a step in both.
        steps = max(total_steps, 4)
        return OneCycleLR(
            optimiser,
            recipe.lr,
            total_steps=steps,
            pct_start=max(recipe.warm_up, 2 / steps),
            cycle_momentum=recipe.momentum > 0,
        )
    return LambdaLR(optimiser, rate_factor(recipe, total_steps, steps_per_epoch))


def rate_factor(recipe: Recipe, total_steps: int, steps_per_epoch: int) -> Callable[[int], float]:
    """What the recipe's rate is multiplied by, as a function of the steps taken so far.

    A function of the step alone has nothing to save or restore, so a resumed training has the
    same rates.
    """
    rising = int(recipe.warm_up * total_steps)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        step -= rising
        match recipe.schedule:
            case "cosine-restarts":
                period = recipe.restart_epochs * steps_per_epoch
                return _cosine(step, period, recipe.restart_factor)
            case "polynomial":
                return math.pow(max(0.0, 1 - step / (total_steps - rising)), recipe.power)
            case _:
                return 1.0

    return factor


def _cosine(step: int, period: int, growth: int) -> float:
    if growth == 1:
        step %= period
    while step >= period:
        step -= period
        period *= growth
    return (1 + math.cos(math.pi * step / period)) / 2
