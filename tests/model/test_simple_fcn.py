"""SimpleFCN has no skips, and dropout that leaves out whole channels, only while training."""

import torch
from torch import nn

from model.nets.simple_fcn import SimpleFCN


def test_everything_passes_the_deepest_level() -> None:
    torch.manual_seed(0)
    net = SimpleFCN(4, width=4).eval()
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.bias is None:
            nn.init.zeros_(module.weight)
    with torch.inference_mode():
        logits = net(torch.randn(1, 3, 32, 32))
        # Without skips nothing of the photo is left: all places of one window look the same.
        assert torch.equal(logits[..., :8, :8], logits[..., 8:16, 16:24])


def test_dropout_only_while_training() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 32)
    net = SimpleFCN(2, width=4, dropout=0.5)
    assert not torch.equal(net(images), net(images))
    certain = SimpleFCN(2, width=4, dropout=0.0)
    assert torch.equal(certain(images), certain(images))
    net.eval()
    assert torch.equal(net(images), net(images))
