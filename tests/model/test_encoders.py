"""The encoders are torchvision's nets: the same names, the same features, and its weights fit."""

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from model.encoders import WEIGHTS, Encoder, ResNetEncoder, VGGEncoder

NAMES = (*ResNetEncoder.choices, *VGGEncoder.choices)


def own(name: str, width: int = 64) -> Encoder:
    return (ResNetEncoder if name in ResNetEncoder.choices else VGGEncoder)(name, width)


def unsettle(net: nn.Module) -> None:
    """Give batch norms what training would: means and scales that are not 0 and 1."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            for tensor in (module.running_mean, module.bias):
                nn.init.normal_(tensor, std=0.1)
            for tensor in (module.running_var, module.weight):
                nn.init.uniform_(tensor, 0.7, 1.3)


@pytest.mark.parametrize("name", ResNetEncoder.choices)
def test_resnet_has_torchvisions_features(name: str) -> None:
    torch.manual_seed(0)
    theirs = models.get_model(name).double().eval()
    unsettle(theirs)
    ours = own(name).double().eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    wanted: list[Tensor] = []
    for layer in (theirs.relu, theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
        layer.register_forward_hook(lambda _, __, output: wanted.append(output.clone()))
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.inference_mode():
        theirs(images)
        maps = ours(images)
    assert len(maps) == len(wanted)
    for found, expected in zip(maps, wanted, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", VGGEncoder.choices)
def test_vgg_has_torchvisions_features(name: str) -> None:
    with torch.device("meta"):
        names = [key for key in models.get_model(name).state_dict() if key.startswith("features.")]
    ours = own(name).eval()
    assert list(ours.state_dict()) == names
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        *skips, deepest = ours(images)
        torch.testing.assert_close(deepest, ours.features(images))
        # What was joined is what goes into the poolings.
        for finer, coarser in zip(skips, (*skips[1:], deepest), strict=True):
            assert finer.min() == 0  # behind a ReLU
            assert finer.shape[-1] == 2 * coarser.shape[-1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [4, 64])
def test_channels_are_what_comes_out(name: str, width: int) -> None:
    with torch.device("meta"):
        encoder = own(name, width).eval()
        maps = encoder(torch.empty(1, 3, 64, 64))
    assert tuple(features.shape[1] for features in maps) == encoder.channels
    assert encoder.channels[0] == width


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_those_of_the_net(name: str) -> None:
    assert WEIGHTS[name].url.rpartition("/")[2].startswith(f"{name}-")
