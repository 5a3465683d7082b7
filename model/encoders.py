"""The encoders of classification, as the way down of a U-Net: ResNet and VGG.

Their parameters have torchvision's names and order, so that its ImageNet weights fit.
"""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.vgg import cfgs, make_layers

from model.errors import InputError, suggestion
from model.pretrained import Weights, load_pretrained

# By encoder. Of resnet50's two, the first, whose training is that of the others.
WEIGHTS: dict[str, Weights] = {
    "resnet18": models.ResNet18_Weights.IMAGENET1K_V1,
    "resnet34": models.ResNet34_Weights.IMAGENET1K_V1,
    "resnet50": models.ResNet50_Weights.IMAGENET1K_V1,
    "vgg11": models.VGG11_Weights.IMAGENET1K_V1,
    "vgg16": models.VGG16_Weights.IMAGENET1K_V1,
}
_WIDTH = 64  # channels of the first level in torchvision's weights


class Encoder(nn.Module):
    """A way down that has the form of a published classification net.

    Attributes:
        name: a key of `WEIGHTS`.
        width: channels of the first level; the published nets have 64.
        channels: of each feature map that it returns, from the finest to the deepest.
    """

    choices: ClassVar[tuple[str, ...]]
    classifier: ClassVar[str]  # how the names of those weights begin that we have no use for
    channels: tuple[int, ...]

    def __init__(self, name: str, width: int) -> None:
        """Raises InputError for a name that is not among the `choices`."""
        super().__init__()
        if name not in self.choices:
            raise InputError(f"There is no encoder {name!r}. {suggestion(name, self.choices)}")
        self.name = name
        self.width = width

    def must_fit_pretrained(self) -> None:
        """Raises InputError where this is not the net whose weights torchvision has."""
        if self.width != _WIDTH:
            raise InputError(
                f"The pretrained weights of {self.name} are for width={_WIDTH}, not {self.width}; "
                f"use --set width={_WIDTH}, or --set pretrained=false."
            )

    def load_pretrained(self) -> None:
        """Take torchvision's ImageNet weights; InputError where that cannot be done."""
        load_pretrained(WEIGHTS[self.name], self, leave_out=self.classifier)


class ResNetEncoder(Encoder):
    """ResNet without its classifier (He et al. 2016, arXiv:1512.03385), the net of torchvision.

    float [N, 3, H, W], H and W multiples of 32 -> five feature maps, at 1/2, 1/4, 1/8, 1/16 and
    1/32 of the resolution.
    """

    choices = ("resnet18", "resnet34", "resnet50")
    classifier = "fc."

    def __init__(self, name: str, width: int = _WIDTH) -> None:
        super().__init__(name, width)
        block = Bottleneck if name == "resnet50" else BasicBlock
        blocks = (2, 2, 2, 2) if name == "resnet18" else (3, 4, 6, 3)
        planes = [width * 2**level for level in range(4)]
        self.channels = (width, *(block.expansion * channels for channels in planes))
        self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            _stage(block, self.channels[level], planes[level], blocks[level], 2 if level else 1)
            for level in range(4)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """The feature maps, the finest first, as of the class."""
        features = F.relu(self.bn1(self.conv1(images)), inplace=True)
        maps = [features]
        features = F.max_pool2d(features, 3, 2, padding=1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = layer(features)
            maps.append(features)
        return maps


class VGGEncoder(Encoder):
    """VGG without batch norm and classifier (Simonyan & Zisserman 2015, arXiv:1409.1556).

    float [N, 3, H, W], H and W multiples of 32 -> six feature maps: what goes into each of the
    five poolings, at 1, 1/2, 1/4, 1/8 and 1/16 of the resolution, and what comes out of the last.
    """

    choices = ("vgg11", "vgg16")
    classifier = "classifier."

    def __init__(self, name: str, width: int = _WIDTH) -> None:
        super().__init__(name, width)
        plan = cfgs["A" if name == "vgg11" else "D"]
        self.features = make_layers(
            [part if part == "M" else part * width // _WIDTH for part in plan]
        )
        self.channels = tuple(factor * width for factor in (1, 2, 4, 8, 8, 8))

    def forward(self, images: Tensor) -> list[Tensor]:
        """The feature maps, the finest first, as of the class."""
        maps, features = [], images
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                maps.append(features)
            features = layer(features)
        return [*maps, features]


class _Shortcut(nn.Sequential):
    """A 1x1 convolution with BN at every `stride`-th place.

    It is torchvision's strided 1x1 convolution, whose backward on channels_last CPU tensors of
    less than 16 channels writes past its buffer (see `ResidualBlock`).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
        )
        self.stride = stride

    def forward(self, features: Tensor) -> Tensor:
        features = features[:, :, :: self.stride, :: self.stride]
        for layer in self:
            features = layer(features)
        return features


def _stage(
    block: type[BasicBlock | Bottleneck], inputs: int, planes: int, count: int, stride: int
) -> nn.Sequential:
    """`count` blocks, of which the first changes the channels and the resolution."""
    outputs = block.expansion * planes
    shortcut = _Shortcut(inputs, outputs, stride) if inputs != outputs else None
    more = (block(outputs, planes) for _ in range(1, count))
    return nn.Sequential(block(inputs, planes, stride, downsample=shortcut), *more)
