"""SegmentNet: any size in, the same size out; it starts calm, learns, and repeats itself."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers import ResidualBlock, pad_to_multiple
from model.losses import build_loss
from model.nets.segmentnet import SegmentNet
from tiny import RECIPE


def build(classes: int = 3, width: int = 4, depth: int = 3, seed: int = 0) -> SegmentNet:
    torch.manual_seed(seed)
    return SegmentNet(classes, width, depth)


def random_images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def train(net: nn.Module, images: Tensor, target: Tensor, steps: int) -> list[float]:
    loss = build_loss(RECIPE)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-2)
    values = []
    for _ in range(steps):
        value = loss(net(images), target)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        values.append(value.item())
    return values


def test_padding_repeats_the_far_edges() -> None:
    image = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).view(1, 1, 2, 3)
    assert pad_to_multiple(image, 4).squeeze().tolist() == [
        [1, 2, 3, 3],
        [4, 5, 6, 6],
        [4, 5, 6, 6],
        [4, 5, 6, 6],
    ]
    assert pad_to_multiple(image[..., :1, :1], 32).unique().tolist() == [1]
    assert pad_to_multiple(image, 1) is image


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 40), (7, 1), (2, 3), (15, 17), (16, 16), (31, 33), (37, 53)]
)
@pytest.mark.parametrize("depth", [1, 4])
def test_every_size_comes_back(size: tuple[int, int], depth: int) -> None:
    net = build(classes=5, width=2, depth=depth).eval()
    with torch.inference_mode():
        logits = net(random_images(2, 3, *size))
    assert logits.shape == (2, 5, *size)
    assert torch.isfinite(logits).all()


def test_logits_lie_over_their_pixels() -> None:
    # What the net says of an odd photo is what it says of the photo grown by hand, cut back.
    net = build(depth=4).eval()
    images = random_images(1, 3, 37, 53)
    grown = np.pad(images.numpy(), ((0, 0), (0, 0), (0, 11), (0, 11)), mode="edge")
    with torch.inference_mode():
        assert torch.equal(net(images), net(torch.from_numpy(grown))[..., :37, :53])


@pytest.mark.parametrize("stride", [1, 2])
def test_residual_block_takes_any_size(stride: int) -> None:
    block = ResidualBlock(3, 5, stride).eval()
    shape = block(random_images(1, 3, 7, 10)).shape
    assert shape == (1, 5, math.ceil(7 / stride), math.ceil(10 / stride))


def test_size_of_the_default_net() -> None:
    net = SegmentNet(21)
    assert net.stride == 16
    assert sum(weight.numel() for weight in net.parameters()) / 1e6 == pytest.approx(8.1, abs=0.05)


def span_seen(net: SegmentNet) -> int:
    """Side, in pixels, of the part of a 96x96 image that the logits of one pixel depend on."""
    images = random_images(1, 3, 96, 96).requires_grad_()
    net.eval()(images)[0, :, 48, 48].sum().backward()
    assert images.grad is not None
    rows = images.grad.abs().sum(dim=(0, 1, 3)).nonzero()
    return int(rows.max() - rows.min()) + 1 if len(rows) else 0


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_depth_widens_what_a_pixel_sees(depth: int) -> None:
    net = build(depth=depth)
    assert net.stride == 2**depth
    assert 6 * 2**depth < span_seen(net) < 12 * 2**depth


def test_a_skip_leaves_every_level() -> None:
    # With the way down cut behind level i, what is seen came over the skips of levels 0 to i.
    spans = []
    for level in range(3):
        net = build(depth=3)
        for weight in net.downs[level].parameters():
            nn.init.zeros_(weight)
        spans.append(span_seen(net))
    spans.append(span_seen(build(depth=3)))
    assert spans[0] > 0
    assert spans == sorted(set(spans))


def test_training_starts_without_confident_errors() -> None:
    net = build(classes=21, width=8)
    images = random_images(4, 3, 32, 32).requires_grad_()
    target = torch.randint(0, 21, (4, 32, 32), generator=torch.Generator().manual_seed(1))
    loss = F.cross_entropy(net(images), target)
    assert math.log(21) < loss.item() < math.log(21) + 0.6
    loss.backward()
    # No weight may be dead at the first step, which all below a head of zeros would be.
    for name, weight in net.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().max() > 0, name


def test_learns_one_batch() -> None:
    target = torch.zeros(2, 24, 24, dtype=torch.uint8)
    target[0, 4:12, 6:20] = 1
    target[1, 10:20, 2:12] = 2
    images = 0.5 * random_images(2, 3, 24, 24)
    images[:, 0] += 2 * target
    losses = train(build(width=8, depth=2), images, target, steps=30)
    assert losses[-1] < 0.3 * losses[0]


def test_training_repeats_itself_to_the_bit() -> None:
    images = random_images(2, 3, 21, 19)
    target = (images[:, 0] > 0).to(torch.uint8)
    nets = [build(classes=2), build(classes=2)]
    for net in nets:
        net.to(memory_format=torch.channels_last)
        train(net, images, target, steps=3)
    first, second = (net.state_dict() for net in nets)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_memory_format_and_bf16_change_little() -> None:
    images = random_images(2, 3, 32, 32)
    target = (images[:, 0] > 0).to(torch.uint8)
    loss = build_loss(RECIPE)
    gradients = {}
    for layout in (torch.contiguous_format, torch.channels_last):
        for half in (False, True):
            net = build(classes=2).to(memory_format=layout)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                logits = net(images.contiguous(memory_format=layout))
                value = loss(logits, target)
            value.backward()
            assert logits.dtype == (torch.bfloat16 if half else torch.float32)
            weights = [w.grad for w in net.parameters() if w.grad is not None]
            gradients[layout, half] = torch.cat([grad.flatten() for grad in weights])
    plain = gradients.pop((torch.contiguous_format, False))
    exact = gradients.pop((torch.channels_last, False))
    torch.testing.assert_close(exact, plain, rtol=1e-3, atol=1e-5)
    for gradient in gradients.values():
        assert F.cosine_similarity(gradient, plain, dim=0) > 0.95


def test_no_strided_1x1_convolution() -> None:
    # On narrow channels_last tensors its backward corrupts memory (see ResidualBlock): it may
    # crash anywhere later or not at all, so its absence is what can be tested.
    for module in SegmentNet(21).modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            assert module.stride == (1, 1)
