"""A U-Net whose way down is a ResNet, from scratch or pretrained."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.encoders import ResNetEncoder
from model.layers import DoubleConv, init_he, pad_to_multiple


class ResNetUNet(nn.Module):
    """U-Net (Ronneberger et al. 2015, arXiv:1505.04597) on ResNet-18, 34 or 50.

    The same function as ``Unet(encoder)`` of segmentation_models_pytorch: five steps up to 256,
    128, 64, 32 and 16 channels, each nearest upsampling, the encoder's feature map of that size
    (the last step has none) and two 3x3 convolutions with batch norm; then a 3x3 convolution.

    Other widths than 64 scale all of it, for small experiments. With 21 classes resnet18 has 14.3 M
    parameters and takes 4.3 G multiply-adds for a 224x224 photo, resnet34 24.4 M and 6.1 G,
    resnet50 32.5 M and 8.3 G.

    Attributes:
        stride: 32, the side in pixels that one place of the deepest level stands for.
    """

    def __init__(
        self,
        num_classes: int,
        encoder: str = "resnet34",
        width: int = 64,
        pretrained: bool = False,
    ) -> None:
        """Raises InputError for an unknown encoder, and for `pretrained` with another width."""
        super().__init__()
        self.stride = 32
        self.encoder = ResNetEncoder(encoder, width)
        if pretrained:
            self.encoder.must_fit_pretrained()
        channels = [self.encoder.channels[-1]]
        channels += [max(1, 4 * width // 2**step) for step in range(5)]
        skips = (*reversed(self.encoder.channels[:-1]), 0)
        self.ups = nn.ModuleList(
            DoubleConv(channels[step] + skips[step], channels[step + 1]) for step in range(5)
        )
        self.head = nn.Conv2d(channels[-1], num_classes, 3, padding=1)
        # As torchvision draws a ResNet. The scales of the last batch norms in the blocks stay 1
        # and are not 0 (Goyal et al. 2017), so that every weight learns from the first step.
        init_he(self, self.head)

    def load_pretrained(self) -> None:
        """Start from ImageNet weights; InputError where they cannot be had.

        For the start of training only: a checkpoint has the encoder's weights in it.
        """
        self.encoder.load_pretrained()

    def forward(self, images: Tensor) -> Tensor:
        """float [N, 3, H, W], any H and W -> logits [N, num_classes, H, W].

        Batch norm cannot train on one photo no larger than `stride` (ValueError).
        """
        height, width = images.shape[-2:]
        *skips, features = self.encoder(pad_to_multiple(images, self.stride))
        for up in self.ups:
            # Nearest: that it is blocky the convolutions mend, and its gradient on CUDA is the
            # same on every run.
            features = F.interpolate(features, scale_factor=2.0, mode="nearest")
            if skips:
                features = torch.cat([features, skips.pop()], dim=1)
            features = up(features)
        logits: Tensor = self.head(features)
        return logits[..., :height, :width]


build = ResNetUNet
