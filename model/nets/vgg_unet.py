"""TernausNet: a U-Net whose way down is a VGG, from scratch or pretrained."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.encoders import VGGEncoder
from model.layers import init_he, pad_to_multiple


class VGGUNet(nn.Module):
    """TernausNet (Iglovikov & Shvets 2018, arXiv:1801.05746): UNet11 on VGG11, UNet16 on VGG16.

    Five steps up from the pooled deepest features, each a 3x3 convolution and a transposed one, to
    256, 256, 128, 64 and 32 channels; before each but the first, and before the last convolution,
    the encoder's feature map of that size is joined. The decoder is UNet11's for both encoders, and
    its transposed convolutions are 2x2, whose windows do not overlap: no checkerboard.

    As published it has no batch norm, so photos never influence each other and a batch of one can
    train; the first weights keep the scale of the activations instead. Other widths than 64 scale
    all of it, for small experiments. With 21 classes UNet11 has 21.2 M parameters and takes 18.8 G
    multiply-adds for a 224x224 photo, UNet16 26.7 M and 26.6 G.

    Attributes:
        stride: 32, the side in pixels that one place of the deepest level stands for.
    """

    def __init__(
        self, num_classes: int, encoder: str = "vgg11", width: int = 64, pretrained: bool = False
    ) -> None:
        """Raises InputError for an unknown encoder, and for `pretrained` with another width."""
        super().__init__()
        self.stride = 32
        self.encoder = VGGEncoder(encoder, width)
        if pretrained:
            self.encoder.must_fit_pretrained()
        inner = [8 * width, 8 * width, 8 * width, 4 * width, 2 * width]
        outer = [max(1, step * width // 2) for step in (8, 8, 4, 2, 1)]
        *skips, deepest = self.encoder.channels
        joined = [deepest, *(up + skip for up, skip in zip(outer, reversed(skips), strict=True))]
        self.ups = nn.ModuleList(map(_Up, joined[:-1], inner, outer))
        self.last = nn.Conv2d(joined[-1], outer[-1], 3, padding=1)
        self.head = nn.Conv2d(outer[-1], num_classes, 1)
        init_he(self, self.head, mode="fan_in")

    def load_pretrained(self) -> None:
        """Start from ImageNet weights; InputError where they cannot be had.

        For the start of training only: a checkpoint has the encoder's weights in it.
        """
        self.encoder.load_pretrained()

    def forward(self, images: Tensor) -> Tensor:
        """float [N, 3, H, W], any H and W -> logits [N, num_classes, H, W]."""
        height, width = images.shape[-2:]
        *skips, features = self.encoder(pad_to_multiple(images, self.stride))
        for up in self.ups:
            features = torch.cat([up(features), skips.pop()], dim=1)
        logits: Tensor = self.head(F.relu(self.last(features), inplace=True))
        return logits[..., :height, :width]


class _Up(nn.Sequential):
    """float [N, in_channels, H, W] -> float [N, out_channels, 2H, 2W]."""

    def __init__(self, in_channels: int, inner_channels: int, out_channels: int) -> None:
        up = nn.ConvTranspose2d(inner_channels, out_channels, 2, stride=2)
        # He's rule by hand: torch takes the fan of a transposed convolution for that of a plain
        # one. As its windows do not overlap, each of its outputs is a sum over one place.
        nn.init.normal_(up.weight, std=math.sqrt(2 / inner_channels))
        assert up.bias is not None
        nn.init.zeros_(up.bias)
        super().__init__(
            nn.Conv2d(in_channels, inner_channels, 3, padding=1),
            nn.ReLU(inplace=True),
            up,
            nn.ReLU(inplace=True),
        )


build = VGGUNet
