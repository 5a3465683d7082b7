"""From a photo to logits: in one pass, in windows, and with its mirror image."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.errors import InputError
from model.images import Image, resized_photo
from model.inference import Predictor, in_windows
from model.loader import normalise
from tiny import RECIPE

CPU = torch.device("cpu")


class Watched(nn.Module):
    """Scores each pixel by itself, and remembers the sizes that it saw."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 4, 1))
        self.sizes: list[tuple[int, int]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append((images.shape[2], images.shape[3]))
        logits: Tensor = self.layers(images)
        return logits


def seen(size: tuple[int, int], **recipe: object) -> tuple[int, int]:
    """The size at which a net sees a photo, having been trained on ones of at most 48 pixels."""
    net = Watched().eval()
    predictor = Predictor.of(net, RECIPE.override(recipe), CPU, max_side=48)
    assert predictor.logits(photo(*size)).shape == (4, *size)
    return net.sizes[0]


def test_a_photo_larger_than_those_trained_on_is_shrunk_to_their_size() -> None:
    assert seen((96, 64)) == (48, 32)
    assert seen((30, 192)) == (8, 48)
    assert seen((48, 13)) == (48, 13)
    assert seen((1, 400)) == (1, 48)
    assert seen((96, 64), fit="resize", image_size="20x24") == (20, 24)
    assert seen((96, 64), fit="pad", image_size=16) == (16, 11)


def test_what_it_sees_is_what_a_dataset_of_that_side_holds() -> None:
    net = Watched().eval()
    large = photo(96, 64)
    there = Predictor.of(net, RECIPE, CPU).logits(resized_photo(large, 48, 32))
    here = Predictor.of(net, RECIPE, CPU, max_side=48).logits(large)
    stretched = F.interpolate(there[None], (96, 64), mode="bilinear")[0]
    torch.testing.assert_close(here, stretched)


class Edgy(nn.Module):
    """Blind where a window ends: its logits fall to zero towards the edge of what it is given."""

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        rows = torch.minimum(torch.arange(height), torch.arange(height).flip(0))[:, None]
        columns = torch.minimum(torch.arange(width), torch.arange(width).flip(0))
        return (torch.minimum(rows, columns) / 8).clamp(max=1).expand(1, 1, height, width)


def photo(height: int, width: int) -> Image:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("normalised", ["imagenet", "per-image"])
@pytest.mark.parametrize(
    "size", [(40, 56), (33, 71), (17, 16), (16, 17), (90, 3), (1, 100), (16, 16), (5, 7), (1, 1)]
)
def test_windows_change_nothing_for_a_net_that_looks_at_one_pixel(
    size: tuple[int, int], normalised: str
) -> None:
    recipe = RECIPE.override({"normalise": normalised})
    net = Watched().eval()
    whole = Predictor.of(net, recipe, CPU).logits(photo(*size))
    net.sizes.clear()
    windowed = Predictor.of(net, recipe, CPU, window=16).logits(photo(*size))
    assert whole.shape == (4, *size)
    torch.testing.assert_close(windowed, whole)
    assert max(max(size) for size in net.sizes) <= 16
    if max(size) <= 16:
        assert net.sizes == [size]


@pytest.mark.parametrize("side", [15, 16])
@pytest.mark.parametrize("length", [17, 24, 25, 32, 33, 100])
def test_neighbouring_windows_overlap_by_half(length: int, side: int) -> None:
    covered = torch.zeros(length)

    def net(images: Tensor) -> Tensor:
        places = images[0, 0, 0].long()
        covered[places] += 1
        return images

    in_windows(net, torch.arange(float(length)).expand(1, 3, 1, length), side)
    assert covered.min() >= 1
    half = side // 2 + 1
    assert (covered[half:-half] >= 2).all()


def test_what_a_net_gets_wrong_at_the_edge_of_a_window_hardly_counts() -> None:
    logits = in_windows(Edgy(), torch.zeros(1, 3, 100, 100), 32)[0, 0, 16:-16, 16:-16]
    assert logits.min() > 0.8  # with equal weights it is 0.5
    assert (logits[1:] - logits[:-1]).abs().max() < 0.05  # no seam


def test_flipping_averages_the_photo_and_its_mirror_image() -> None:
    torch.manual_seed(0)
    net = nn.Conv2d(3, 2, 3, padding=1).eval()
    once, twice = Predictor.of(net, RECIPE, CPU), Predictor.of(net, RECIPE, CPU, flip=True)
    image = photo(9, 12)
    mirrored = np.ascontiguousarray(image[:, ::-1])
    mean = (once.logits(image) + once.logits(mirrored).flip(-1)) / 2
    torch.testing.assert_close(twice.logits(image), mean)
    torch.testing.assert_close(twice.logits(mirrored).flip(-1), twice.logits(image))
    assert not torch.allclose(twice.logits(image), once.logits(image))


def test_flipping_changes_nothing_for_a_net_that_is_symmetric() -> None:
    torch.manual_seed(0)
    net = nn.Conv2d(3, 2, 3, padding=1).eval()
    net.weight.data = net.weight + net.weight.flip(-1)
    once, twice = Predictor.of(net, RECIPE, CPU), Predictor.of(net, RECIPE, CPU, flip=True)
    torch.testing.assert_close(twice.logits(photo(9, 12)), once.logits(photo(9, 12)))


def test_both_together() -> None:
    net = Watched().eval()
    both = Predictor.of(net, RECIPE, CPU, window=8, flip=True)
    torch.testing.assert_close(
        both.logits(photo(19, 30)), Predictor.of(net, RECIPE, CPU).logits(photo(19, 30))
    )


@pytest.mark.parametrize("size", [(60, 80), (24, 32), (7, 9)])
def test_a_recipe_of_whole_photos_squeezes_them_and_stretches_the_logits(
    size: tuple[int, int],
) -> None:
    recipe = RECIPE.override({"fit": "resize", "image_size": "24x32"})
    net = Watched().eval()
    flat = np.full((*size, 3), (200, 90, 10), np.uint8)
    logits = Predictor.of(net, recipe, CPU).logits(flat)
    assert net.sizes == [(24, 32)]
    one = torch.tensor([200.0, 90, 10]).view(1, 3, 1, 1)
    expected = net(normalise(one, "imagenet"))[0].expand(4, *size)
    torch.testing.assert_close(logits, expected)


def test_where_whole_photos_are_padded_only_larger_ones_shrink() -> None:
    recipe = RECIPE.override({"fit": "pad", "image_size": "24x32"})
    net = Watched().eval()
    for size in ((24, 30), (48, 32), (7, 64)):
        flat = np.full((*size, 3), 90, np.uint8)
        assert Predictor.of(net, recipe, CPU).logits(flat).shape == (4, *size)
    assert net.sizes == [(24, 30), (24, 16), (4, 32)]


@pytest.mark.parametrize(
    ("settings", "window", "said"),
    [({}, 0, "too small"), ({"fit": "resize"}, 64, "leave out the window")],
)
def test_windows_that_cannot_be(settings: dict[str, str], window: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Predictor.of(Watched(), RECIPE.override(settings), CPU, window=window)
