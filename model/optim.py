"""The recipe's optimiser and learning-rate schedule."""

from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from model.recipe import Recipe


def build_optimiser(recipe: Recipe, net: nn.Module) -> Optimizer:
    """The optimiser that the recipe names; biases and norm weights are not decayed."""
    decayed = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    match recipe.optimiser:
        case "adamw":  # Loshchilov and Hutter, 2019
            return AdamW(groups, lr=recipe.lr)


def build_schedule(recipe: Recipe, optimiser: Optimizer, total_steps: int) -> LRScheduler:
    """The schedule that the recipe names, over `total_steps`, stepped once a batch."""
    match recipe.schedule:
        case "one-cycle":  # Smith and Topin, 2019
            # OneCycleLR divides by the length of each phase, so it needs a step in both.
            steps = max(total_steps, 4)
            rising = max(recipe.warm_up, 2 / steps)
            return OneCycleLR(optimiser, recipe.lr, total_steps=steps, pct_start=rising)
