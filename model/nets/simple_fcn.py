"""A plain fully convolutional net: down, a head of 1x1 convolutions, up again, and no skips."""

from torch import Tensor, nn

from model.layers import ConvBNReLU, DoubleConv, init_he, pad_to_multiple


class SimpleFCN(nn.Module):
    """Fully convolutional net without skip connections (Long et al. 2015, arXiv:1411.4038).

    Level i of `depth` + 1 has ``width * 2**i`` channels at 1 / 2**i of the resolution. At the
    deepest, 1x1 convolutions between dropouts of whole channels (Tompson et al. 2015,
    arXiv:1411.4280) are what fully connected layers are in a classifier. The way up is learned:
    2x2 transposed convolutions of stride 2. With 21 classes it has 1.4 M parameters and takes 3.0 G
    multiply-adds for a 224x224 photo.

    Attributes:
        stride: 2**depth, the side in pixels that one place of the deepest level stands for.
    """

    def __init__(
        self, num_classes: int, width: int = 32, depth: int = 3, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.stride = 2**depth
        channels = [width * 2**level for level in range(depth + 1)]
        layers: list[nn.Module] = [DoubleConv(3, width)]
        for level in range(depth):
            layers += [nn.MaxPool2d(2), DoubleConv(channels[level], channels[level + 1])]
        layers += [
            nn.Dropout2d(dropout),
            ConvBNReLU(channels[-1], channels[-1], kernel=1),
            nn.Dropout2d(dropout),
        ]
        for level in reversed(range(depth)):
            layers += [
                nn.ConvTranspose2d(channels[level + 1], channels[level], 2, stride=2, bias=False),
                nn.BatchNorm2d(channels[level]),
                nn.ReLU(inplace=True),
            ]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Conv2d(width, num_classes, 1)
        init_he(self, self.head)

    def forward(self, images: Tensor) -> Tensor:
        """float [N, 3, H, W], any H and W -> logits [N, num_classes, H, W].

        Batch norm cannot train on one photo no larger than `stride` (ValueError).
        """
        height, width = images.shape[-2:]
        logits: Tensor = self.head(self.layers(pad_to_multiple(images, self.stride)))
        return logits[..., :height, :width]


build = SimpleFCN
