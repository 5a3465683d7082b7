"""ResNetUNet computes what `Unet` of segmentation_models_pytorch does."""

import re

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from model.nets.resnet_unet import ResNetUNet


def renamed(key: str) -> str:
    """The name of a weight there, as it is here."""
    key = key.replace("segmentation_head.0.", "head.")
    found = re.fullmatch(r"decoder\.blocks\.(\d)\.conv(\d)\.(.*)", key)
    return f"ups.{found[1]}.{int(found[2]) - 1}.{found[3]}" if found else key


@pytest.mark.parametrize("encoder", ["resnet18", "resnet34", "resnet50"])
def test_same_weights_same_logits(encoder: str) -> None:
    torch.manual_seed(0)
    theirs = smp.Unet(encoder, encoder_weights=None, classes=5).double().eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            nn.init.normal_(module.running_mean, std=0.1)
    ours = ResNetUNet(5, encoder).double().eval()
    ours.load_state_dict({renamed(key): value for key, value in theirs.state_dict().items()})
    assert sum(w.numel() for w in ours.parameters()) == sum(w.numel() for w in theirs.parameters())
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.inference_mode():
        expected = theirs(images)
        torch.testing.assert_close(ours(images), expected)
    assert expected.std() > 0.1
