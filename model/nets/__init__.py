"""The nets, one file each, and the one place that builds them from a recipe."""

from torch import nn

from model.nets.segmentnet import SegmentNet
from model.recipe import Recipe


def build_net(recipe: Recipe, num_classes: int) -> nn.Module:
    """The recipe's net: float [N, 3, H, W] to logits [N, num_classes, H, W], any H and W."""
    match recipe.net:
        case "segmentnet":
            return SegmentNet(num_classes, width=recipe.width, depth=recipe.depth)
