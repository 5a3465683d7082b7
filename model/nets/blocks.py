"""Parts that nets are assembled from: the padding, the residual block, the step up."""

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
    if not (bottom or right):
        return images
    return F.pad(images, (0, right, 0, bottom), mode="replicate")


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

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
        self.refine = ResidualBlock(out_channels + skip_channels, out_channels)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        """[N, in_channels, H, W] and [N, skip_channels, 2H, 2W] -> [N, out_channels, 2H, 2W]."""
        refined: Tensor = self.refine(torch.cat([self.up(features), skip], dim=1))
        return refined


def init_he(net: nn.Module) -> None:
    """Draw every convolution of `net` by He et al. 2015 (arXiv:1502.01852), from torch's generator.

    Fan-out keeps the size of the gradients through the layers; batch norm keeps that of the
    activations.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
