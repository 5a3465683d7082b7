"""SegmentNet: a U-Net of residual blocks, for photos of any size."""

from torch import Tensor, nn

from model.layers import ResidualBlock, UpBlock, init_he, pad_to_multiple


class SegmentNet(nn.Module):
    """Fully convolutional net with skip connections (Ronneberger et al. 2015, arXiv:1505.04597)
    and residual blocks (He et al. 2016, arXiv:1512.03385).

    Level i of `depth` + 1 has ``width * 2**i`` channels at 1 / 2**i of the resolution.
    With 21 classes and depth 4, width 32 has 8.1 M parameters and takes 9.8 G multiply-adds for a
    224x224 photo, width 16 2.0 M and 2.5 G; each level costs about the same.

    Attributes:
        stride: 2**depth, the side in pixels that one place of the deepest level stands for.
    """

    def __init__(self, num_classes: int, width: int = 32, depth: int = 4) -> None:
        super().__init__()
        self.stride = 2**depth
        channels = [width * 2**level for level in range(depth + 1)]
        self.stem = ResidualBlock(3, width)
        # Strided convolutions rather than max pooling: where a thing lies is kept by the skips.
        self.downs = nn.ModuleList(
            ResidualBlock(channels[level], channels[level + 1], stride=2) for level in range(depth)
        )
        self.ups = nn.ModuleList(
            UpBlock(channels[level + 1], channels[level], channels[level])
            for level in reversed(range(depth))
        )
        self.head = nn.Conv2d(width, num_classes, 1)
        init_he(self, self.head)

    def forward(self, images: Tensor) -> Tensor:
        """Score every class at every pixel.

        Args:
            images: float [N, 3, H, W] with any H and W of at least 1. Batch norm cannot train on
                one photo no larger than `stride` (a single value per channel: ValueError).

        Returns:
            logits, [N, num_classes, H, W], in the dtype of the convolutions (bf16 under autocast).
        """
        height, width = images.shape[-2:]
        features = self.stem(pad_to_multiple(images, self.stride))
        skips = []
        for down in self.downs:
            skips.append(features)
            features = down(features)
        for up in self.ups:
            features = up(features, skips.pop())
        logits: Tensor = self.head(features)
        return logits[..., :height, :width]


build = SegmentNet
