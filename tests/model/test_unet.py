"""UNet has the published shape: double convolutions, poolings, skips from every level."""

import pytest
import torch
from torch import nn

from model.nets.unet import UNet


@pytest.mark.parametrize(("depth", "deepest", "millions"), [(4, 1024, 31.0), (3, 512, 7.7)])
def test_size_of_the_published_net(depth: int, deepest: int, millions: float) -> None:
    with torch.device("meta"):
        net = UNet(21, depth=depth)
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert max(convolution.out_channels for convolution in convolutions) == deepest
    assert sum(w.numel() for w in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def test_a_skip_leaves_every_level() -> None:
    # With the way down cut behind level i, what is seen came over the skips of levels 0 to i.
    spans = []
    for cut in (0, 1, 2, None):
        torch.manual_seed(0)
        net = UNet(2, width=4, depth=3)
        if cut is not None:
            for weight in net.downs[cut].parameters():
                nn.init.zeros_(weight)
        images = torch.randn(1, 3, 96, 96, requires_grad=True)
        net.eval()(images)[0, :, 48, 48].sum().backward()
        assert images.grad is not None
        rows = images.grad.abs().sum(dim=(0, 1, 3)).nonzero()
        spans.append(int(rows.max() - rows.min()) + 1)
    assert spans == sorted(set(spans))
