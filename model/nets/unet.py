"""The original U-Net, with batch norm, for photos of any size."""

import torch.nn.functional as F
from torch import Tensor, nn

from model.layers import DoubleConv, UpBlock, init_he, pad_to_multiple


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015, arXiv:1505.04597) with batch norm and 'same' padding.

    Level i of `depth` + 1 has ``width * 2**i`` channels at 1 / 2**i of the resolution: two 3x3
    convolutions with batch norm on the way down, max pooling between them, 2x2 transposed
    convolutions and skip connections on the way up, and a 1x1 convolution at the end. Where others
    crop the skips, or stretch odd features to fit them, the photo is padded: all sizes fit.
    With 21 classes and width 64, depth 4 has 31.0 M parameters and takes 36.9 G multiply-adds for
    a 224x224 photo, depth 3 has 7.7 M and takes 28.2 G.

    Attributes:
        stride: 2**depth, the side in pixels that one place of the deepest level stands for.
    """

    def __init__(self, num_classes: int, width: int = 64, depth: int = 4) -> None:
        super().__init__()
        self.stride = 2**depth
        channels = [width * 2**level for level in range(depth + 1)]
        self.stem = DoubleConv(3, width)
        self.downs = nn.ModuleList(
            DoubleConv(channels[level], channels[level + 1]) for level in range(depth)
        )
        self.ups = nn.ModuleList(
            UpBlock(channels[level + 1], channels[level], channels[level], DoubleConv)
            for level in reversed(range(depth))
        )
        self.head = nn.Conv2d(width, num_classes, 1)
        init_he(self, self.head)

    def forward(self, images: Tensor) -> Tensor:
        """float [N, 3, H, W], any H and W -> logits [N, num_classes, H, W].

        Batch norm cannot train on one photo no larger than `stride` (ValueError).
        """
        height, width = images.shape[-2:]
        features = self.stem(pad_to_multiple(images, self.stride))
        skips = []
        for down in self.downs:
            skips.append(features)
            features = down(F.max_pool2d(features, 2))
        for up in self.ups:
            features = up(features, skips.pop())
        logits: Tensor = self.head(features)
        return logits[..., :height, :width]


build = UNet
