"""The nets, one file each: whatever module stands here is a net that a recipe can name.

A net's module has a ``build(num_classes, width=…, …) -> nn.Module``, a class or a function. Its
other arguments are the settings of a recipe that the net takes, their defaults what holds where the
recipe says nothing. What it returns maps float [N, 3, H, W] to logits [N, num_classes, H, W] for
any H and W of at least 1, and has an attribute `stride`: the side in pixels that one place of its
deepest level stands for. A net that takes `pretrained` has a method `load_pretrained()`.
"""

import inspect
from importlib import import_module

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from model.errors import InputError
from model.recipe import Recipe

# What of a recipe belongs to the net.
_SETTINGS = ("width", "depth", "encoder", "pretrained", "dropout")


def build_net(recipe: Recipe, num_classes: int) -> nn.Module:
    """The recipe's net; InputError for a setting that it does not take, or a value of one."""
    build = import_module(f"{__name__}.{recipe.net}").build
    given = {key: value for key in _SETTINGS if (value := getattr(recipe, key)) is not None}
    taken = [key for key in inspect.signature(build).parameters if key in _SETTINGS]
    for key in given:
        if key not in taken:
            raise InputError(
                f"The net {recipe.net} has no {key}; it takes {', '.join(taken) or 'no settings'}. "
                f"Leave it out with --set {key}=none."
            )
    net: nn.Module = build(num_classes, **given)
    return net


def must_be_trainable(net: nn.Module, recipe: Recipe, batch_size: int) -> None:
    """InputError where one photo shrinks to a map of 1x1, and batch norm has nothing to go by."""
    smallest = recipe.image_size.scaled(min(recipe.multi_scale, default=1.0))
    alone = batch_size // min(recipe.accumulate, batch_size) == 1
    normed = any(isinstance(module, _BatchNorm) for module in net.modules())
    stride = int(net.stride)  # type: ignore[arg-type]  # every net has it
    if alone and normed and max(smallest) <= stride:
        more = "--set accumulate=1" if recipe.accumulate > 1 else "--set batch_size=2"
        raise InputError(
            f"A single crop of {smallest} pixels shrinks to 1x1 in {recipe.net}, which batch norm "
            f"cannot train on; use --set image_size={2 * stride}, or {more}."
        )
