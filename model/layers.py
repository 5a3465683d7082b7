"""Parts that nets are assembled from: padding, convolutions, steps up, the first weights."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Grow the right and bottom edges until both sides are multiples of `multiple`.

    The edge pixels are repeated: reflection needs a side longer than the padding (a 1x1 photo has
    none), and zeros would draw a black frame that the net sees as an object. Only the far edges
    grow, so pixel (y, x) keeps its place and ``logits[..., :H, :W]`` undoes the padding.

    Args:
        images: float [N, C, H, W], H and W at least 1.
        multiple: pixels, at least 1.

    Returns:
        float [N, C, H', W'] with H' and W' the next multiples; `images` itself if they already are.
    """
    height, width = images.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    # A graph that is exported has no size yet to decide by; padding by nothing is harmless there.
    if not torch.compiler.is_exporting() and not (bottom or right):
        return images
    return F.pad(images, (0, right, 0, bottom), mode="replicate")


class ConvBNReLU(nn.Sequential):
    """A convolution that keeps the size, batch norm (Ioffe & Szegedy 2015, arXiv:1502.03167), ReLU.

    float [N, in_channels, H, W] -> float [N, out_channels, H, W]; `kernel` is odd.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3) -> None:
        super().__init__(
            # No bias: the batch norm would subtract it again.
            nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class DoubleConv(nn.Sequential):
    """Two 3x3 convolutions with batch norm and ReLU, the unit of the U-Nets.

    float [N, in_channels, H, W] -> float [N, out_channels, H, W].
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            ConvBNReLU(in_channels, out_channels), ConvBNReLU(out_channels, out_channels)
        )


class ResidualBlock(nn.Module):
    """conv-BN-ReLU-conv-BN plus a shortcut, then ReLU (He et al. 2016, arXiv:1512.03385).

    The shortcut is the identity where shapes allow it, else a 1x1 convolution with BN, behind an
    average pooling where the block is strided (ResNet-D, He et al. 2019, arXiv:1812.01187).
    float [N, in_channels, H, W] -> float [N, out_channels, ceil(H / stride), ceil(W / stride)].
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        # No biases: the batch norm behind each convolution would subtract them again.
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        shortcut: list[nn.Module] = []
        if stride != 1:
            # Never a strided 1x1 convolution: it drops three pixels of four, and on channels_last
            # CPU tensors of less than 16 channels its backward writes past its buffer (oneDNN
            # issue 6035, met in torch 2.15).
            shortcut.append(nn.AvgPool2d(stride, ceil_mode=True))
        if stride != 1 or in_channels != out_channels:
            shortcut.append(nn.Conv2d(in_channels, out_channels, 1, bias=False))
            shortcut.append(nn.BatchNorm2d(out_channels))
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, features: Tensor) -> Tensor:
        """float [N, in_channels, H, W] -> float [N, out_channels, H', W'], as of the class."""
        return F.relu(self.residual(features) + self.shortcut(features), inplace=True)


class UpBlock(nn.Module):
    """Double the resolution, join the skip connection, refine (Ronneberger et al. 2015,
    arXiv:1505.04597).

    The step up is a 2x2 transposed convolution of stride 2. Its windows do not overlap, so it
    draws no checkerboard, and its gradient is the same on every run; that of bilinear upsampling
    on CUDA is summed with atomics, in any order.
    """

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        out_channels: int,
        refine: Callable[[int, int], nn.Module] = ResidualBlock,
    ) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
        self.refine = refine(out_channels + skip_channels, out_channels)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        """[N, in_channels, H, W] and [N, skip_channels, 2H, 2W] -> [N, out_channels, 2H, 2W]."""
        refined: Tensor = self.refine(torch.cat([self.up(features), skip], dim=1))
        return refined


def init_he(
    net: nn.Module, head: nn.Conv2d, mode: Literal["fan_in", "fan_out"] = "fan_out"
) -> None:
    """Draw the convolutions of `net` by He et al. 2015 (arXiv:1502.01852), from torch's generator.

    Fan-out keeps the size of the gradients through the layers, and batch norm that of the
    activations; a net without it needs fan-in, which keeps the latter. Biases become 0.

    The `head`, the convolution whose output the logits are, keeps the size of its input. Almost
    zero weights there, for a start from equal probabilities, cost dearly: on four photos learned by
    heart the loss stood ten times higher after a hundred steps, and stayed there.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            if module is head:
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="linear")
            else:
                nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
