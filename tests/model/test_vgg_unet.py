"""VGGUNet has no batch norm, so its first weights must keep the scale of what goes through."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.nets.vgg_unet import VGGUNet


def test_sizes_of_the_published_nets() -> None:
    with torch.device("meta"):
        sizes = [
            sum(weight.numel() for weight in VGGUNet(21, encoder).parameters()) / 1e6
            for encoder in ("vgg11", "vgg16")
        ]
    assert sizes == pytest.approx([21.2, 26.7], abs=0.05)


@pytest.mark.parametrize("encoder", ["vgg11", "vgg16"])
def test_activations_keep_their_scale_at_first(encoder: str) -> None:
    torch.manual_seed(0)
    net = VGGUNet(2, encoder)
    scales = []

    def measure(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        scales.append(output.detach().square().mean().sqrt().item())

    for module in net.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(measure)
    with torch.inference_mode():
        logits = net(torch.randn(1, 3, 64, 64))
    assert len(scales) == (8 if encoder == "vgg11" else 13) + 2 * 5
    assert min(scales) > 0.8
    assert max(scales) < 4
    assert 0.1 < logits.std() < 5


def test_full_width_learns_in_a_few_steps() -> None:
    torch.manual_seed(0)
    net = VGGUNet(2)
    images = torch.randn(2, 3, 32, 32)
    target = torch.zeros(2, 32, 32)
    target[:, 8:20, 4:24] = 1
    images[:, 0] += 3 * target
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-4)
    losses = []
    for _ in range(8):
        logits = net(images)
        loss = F.binary_cross_entropy_with_logits(logits[:, 1] - logits[:, 0], target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.75 * losses[0]
