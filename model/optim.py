"""The recipe's optimiser and learning-rate schedule."""

from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from model.recipe import Recipe


def build_optimiser(recipe: Recipe, net: nn.Module) -> Optimizer:
    """AdamW (Loshchilov and Hutter, 2019); biases and norm weights are not decayed."""
    decayed = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=recipe.lr)


def build_schedule(recipe: Recipe, optimiser: Optimizer, total_steps: int) -> LRScheduler:
    """One cycle (Smith and Topin, 2019) over `total_steps`, stepped once a batch."""
    # OneCycleLR divides by the length of each phase, so it needs a step in both.
    steps = max(total_steps, 4)
    return OneCycleLR(
        optimiser, max_lr=recipe.lr, total_steps=steps, pct_start=max(recipe.warm_up, 2 / steps)
    )
