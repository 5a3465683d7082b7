"""A batch augmented at once: what OpenCV and torchvision make of its photos one by one."""

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from model.augment import CHANCES, Plan, as_seen
from model.augment_batch import NOWHERE, packed, recoloured, sampled
from model.augment_photo import augmented
from model.images import OUTSIDE, Image
from model.manifest import VOID
from model.recipe import Recipe
from tiny import RECIPE, labelled

PLAIN: dict[str, Any] = {"jitter": 0, "rotate": 0, "scale": (1, 1), "flip": 0}
SIZES = ((40, 56), (64, 48), (32, 80))
SCALE, ANGLE, TOP, LEFT, FLIP, FLIP_VERTICAL, JITTERED, BRIGHTNESS = range(8)


def smooth(height: int, width: int) -> tuple[Image, Image]:
    """What interpolation can be judged by: a photo without edges, and a mask with many."""
    y, x = np.mgrid[:height, :width]
    colours = 128 + 100 * np.stack([np.sin(y / 9), np.cos(x / 7), np.sin((x + y) / 8)], -1)
    return colours.astype(np.uint8), ((y // 5 + x // 7) % 3).astype(np.uint8)


def made(
    recipe: Recipe, pairs: list[tuple[Image, Image]], **chances: float
) -> tuple[list[Image], list[Image]]:
    """The photos [H, W, 3] and masks of the batch that comes of it; each chance else is a half."""
    numbers = np.full((len(pairs), CHANCES), 0.5)
    for name, value in chances.items():
        numbers[:, globals()[name.upper()]] = value
    images, targets = batch(recipe, pairs, numbers)
    return list(images.permute(0, 2, 3, 1).numpy()), list(targets.numpy())


def joined(pairs: list[tuple[Image, Image]]) -> Tensor:
    return torch.cat([*(packed(*pair) for pair in pairs), NOWHERE])


def batch(recipe: Recipe, pairs: list[tuple[Image, Image]], chances: Any) -> tuple[Tensor, Tensor]:
    sizes = np.array([mask.shape for _, mask in pairs])
    areas = sizes.prod(axis=1)
    plan = Plan.of(recipe, sizes, chances)
    return sampled(joined(pairs), np.cumsum(areas) - areas, sizes, plan)


def assert_close(ours: Image, theirs: Image, most: int) -> None:
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs).max() <= most


DRAWN: list[dict[str, Any]] = [
    {"scale": (0.5, 2), "flip": 0.5, "flip_vertical": 0.5},
    {"scale": (0.5, 2), "rotate": 40, "jitter": 0.5, "flip": 0.5},
    {"fit": "pad", "rotate": 40, "jitter": 0.5, "flip": 0.5},
    {"fit": "resize", "rotate": 10, "scale": (0.8, 1.2)},
]


@pytest.mark.parametrize("settings", DRAWN, ids=["scaled", "all", "pad", "resize"])
def test_it_is_what_opencv_makes_of_its_photos_one_by_one(settings: dict[str, Any]) -> None:
    recipe = RECIPE.override(PLAIN | {"image_size": 48} | settings)
    chances = np.random.default_rng(0).random((60, CHANCES))
    pairs = [as_seen(*smooth(*SIZES[i % 3]), recipe) for i in range(60)]
    images, targets = batch(recipe, pairs, chances)
    plan = Plan.of(recipe, np.array([mask.shape for _, mask in pairs]), chances)
    photos, masks = augmented(pairs, plan)
    # Positions are rounded otherwise, and hues to steps of a 256th of a turn.
    assert (targets.numpy() == masks).mean() > 0.985
    shown = (targets.numpy() == masks) & (masks != VOID)
    assert shown.mean() > 0.3
    apart = np.abs(images.permute(0, 2, 3, 1).numpy().astype(int) - photos)[shown]
    assert np.quantile(apart, 0.99) <= (6 if "jitter" in settings else 2)
    assert apart.mean() < 1
    for image, target in ((photos, masks), (images.permute(0, 2, 3, 1).numpy(), targets.numpy())):
        assert (image[target == VOID] == OUTSIDE).all()


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.6, 2])
def test_resized_as_opencv_does(scale: float) -> None:
    pairs = [smooth(*size) for size in SIZES]
    recipe = RECIPE.override(PLAIN | {"scale": (scale, scale), "fit": "pad", "image_size": 80})
    for (photo, mask), ours, target in zip(pairs, *made(recipe, pairs), strict=True):
        height, width = (round(side * scale) for side in mask.shape)
        wanted = cv2.resize(photo, (width, height), interpolation=cv2.INTER_LINEAR)
        assert_close(ours[:height, :width], wanted, 1)
        nearest = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        assert (target[:height, :width] == nearest).mean() > 0.95  # halfway is rounded either way
        assert (target[height:] == VOID).all()
        assert (target[:, width:] == VOID).all()
        assert (ours[target == VOID] == OUTSIDE).all()


@pytest.mark.parametrize("angle", [0.0, 0.2, 0.9])
def test_turned_as_opencv_does(angle: float) -> None:
    pairs = [smooth(*size) for size in SIZES]
    recipe = RECIPE.override(PLAIN | {"rotate": 30, "fit": "pad", "image_size": 80})
    degrees = 30 * (2 * angle - 1)
    for (photo, mask), ours, target in zip(pairs, *made(recipe, pairs, angle=angle), strict=True):
        height, width = mask.shape
        turn = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), degrees, 1)
        size = (width, height)
        wanted = cv2.warpAffine(photo, turn, size, flags=cv2.INTER_LINEAR)
        inside = cv2.warpAffine(np.ones_like(mask), turn, size, flags=cv2.INTER_LINEAR) == 1
        inside = cv2.erode(inside.astype(np.uint8), np.ones((5, 5))) == 1
        assert inside.mean() > 0.5
        # OpenCV rounds positions to 1/32 of a pixel.
        assert_close(ours[:height, :width][inside], wanted[inside], 3)
        near = cv2.warpAffine(mask, turn, size, flags=cv2.INTER_NEAREST)
        assert (target[:height, :width] == near)[inside].mean() > 0.95
        assert (target == VOID).any()


def test_windows_lie_anywhere_in_the_photo_and_are_flipped() -> None:
    recipe = RECIPE.override(PLAIN | {"flip": 0.5, "flip_vertical": 0.5, "image_size": 32})
    pair = smooth(40, 56)
    for top, left in ((0, 0), (0.999, 0), (0.5, 0.999)):
        y, x = int(top * 9), int(left * 25)
        window = np.s_[y : y + 32, x : x + 32]
        for flip, flip_vertical in ((0.4, 0.6), (0.6, 0.4), (0.4, 0.4), (0.6, 0.6)):
            turned = np.s_[:: -1 if flip_vertical < 0.5 else 1, :: -1 if flip < 0.5 else 1]
            images, targets = made(
                recipe, [pair], top=top, left=left, flip=flip, flip_vertical=flip_vertical
            )
            np.testing.assert_array_equal(images[0], pair[0][window][turned])
            np.testing.assert_array_equal(targets[0], pair[1][window][turned])


def test_a_photo_smaller_than_the_window_lies_in_its_middle() -> None:
    photo, mask = smooth(10, 40)
    images, targets = made(RECIPE.override(PLAIN | {"image_size": 32}), [(photo, mask)], left=0)
    np.testing.assert_array_equal(targets[0][11:21], mask[:, :32])
    np.testing.assert_array_equal(images[0][11:21], photo[:, :32])
    assert (targets[0] == VOID).sum() == 22 * 32
    assert (images[0][targets[0] == VOID] == OUTSIDE).all()


@pytest.mark.parametrize("angle", [0.0, 0.9])
def test_of_a_turned_photo_nothing_lies_beyond_where_it_lay(angle: float) -> None:
    """It is turned before it is padded."""
    recipe = RECIPE.override(PLAIN | {"rotate": 40, "image_size": 32})
    for shape, beyond in (
        ((10, 40), np.s_[[*range(11), *range(21, 32)]]),
        ((40, 10), np.s_[:, 21:]),
    ):
        pair = smooth(*shape)
        _, targets = made(recipe, [pair], angle=angle)
        chances = np.full((1, CHANCES), 0.5)
        chances[:, ANGLE] = angle
        _, masks = augmented([pair], Plan.of(recipe, np.array([shape]), chances))
        for target in (targets[0], masks[0]):
            assert (target[beyond] == VOID).all()
            assert (target != VOID).sum() > 100


def test_each_is_changed_by_its_own_numbers_whoever_is_beside_it() -> None:
    recipe = RECIPE.override({"jitter": 0.4, "rotate": 40, "flip_vertical": 0.5, "image_size": 48})
    pairs = [labelled(i, *size) for i, size in enumerate((*SIZES, (1, 1), (3, 200)))]
    chances = np.random.default_rng(0).random((len(pairs), CHANCES))
    images, targets = batch(recipe, pairs, chances)
    assert images.shape == (5, 3, 48, 48)
    assert images.dtype == targets.dtype == torch.uint8
    for i in range(len(pairs)):
        alone, mask = batch(recipe, pairs[i : i + 1], chances[i : i + 1])
        assert torch.equal(targets[i], mask[0])
        assert torch.equal(images[i], alone[0])


def test_colours_change_as_torchvision_changes_them() -> None:
    photos = [smooth(24, 32)[0], labelled(3, 24, 32)[0]]
    random = np.random.default_rng(1)
    factors = random.uniform((0.5, 0.5, 0.5, -0.5), (1.5, 1.5, 1.5, 0.5), (2, 4))
    inside = torch.ones((2, 24, 32), dtype=torch.bool)
    colours = torch.from_numpy(np.stack(photos)).float()
    ours = recoloured(colours, inside, torch.from_numpy(factors).float())
    for photo, done, (brightness, contrast, saturation, hue) in zip(
        photos, ours, factors.tolist(), strict=True
    ):
        wanted = torch.from_numpy(photo).permute(2, 0, 1) / 255
        wanted = F.adjust_contrast(F.adjust_brightness(wanted, brightness), contrast)
        wanted = F.adjust_hue(F.adjust_saturation(wanted, saturation), hue)
        torch.testing.assert_close(done / 255, wanted.permute(1, 2, 0), atol=1e-3, rtol=0)


def test_most_photos_are_recoloured_and_the_rest_is_left_alone() -> None:
    recipe = RECIPE.override(PLAIN | {"jitter": 0.5, "image_size": 32})
    photo, mask = smooth(32, 32)
    brighter, _ = made(recipe, [(photo, mask)], jittered=0.79, brightness=0.9)
    assert_close(brighter[0], np.clip(photo * 1.4, 0, 255).round().astype(np.uint8), 1)
    left_alone, _ = made(recipe, [(photo, mask)], jittered=0.81, brightness=0.9)
    np.testing.assert_array_equal(left_alone[0], photo)


def test_colours_change_by_the_strength_and_hue_by_a_quarter_of_it() -> None:
    recipe = RECIPE.override({"jitter": 0.4})
    chances = np.random.default_rng(0).random((1000, CHANCES))
    chances[:, JITTERED] = 0.1
    jitter = Plan.of(recipe, np.full((1000, 2), 16), chances).jitter
    np.testing.assert_allclose(jitter.min(axis=0), (0.6, 0.6, 0.6, -0.1), atol=0.01)
    np.testing.assert_allclose(jitter.max(axis=0), (1.4, 1.4, 1.4, 0.1), atol=0.01)
    assert np.abs(np.corrcoef(jitter.T) - np.eye(4)).max() < 0.15


def test_the_mean_that_contrast_goes_by_is_that_of_the_photo() -> None:
    inside = torch.zeros((1, 8, 8), dtype=torch.bool)
    inside[:, :4] = True
    colours = torch.full((1, 8, 8, 3), 250.0)
    colours[:, :4] = 60
    done = recoloured(colours, inside, torch.tensor([[1, 0.5, 1, 0]]))
    torch.testing.assert_close(done[:, :4], colours[:, :4], atol=0.1, rtol=0)


def test_a_window_of_another_size_shows_as_much_of_a_whole_photo() -> None:
    recipe = RECIPE.override(PLAIN | {"fit": "resize", "image_size": 32})
    photo, mask = smooth(64, 64)
    sizes = np.array([mask.shape])
    plan = Plan.of(recipe.override({"image_size": "16x24"}), sizes, np.full((1, CHANCES), 0.5))
    images, targets = sampled(joined([(photo, mask)]), np.zeros(1, np.int64), sizes, plan)
    assert images.shape == (1, 3, 16, 24)
    wanted = cv2.resize(photo, (24, 16), interpolation=cv2.INTER_LINEAR)
    assert_close(images[0].permute(1, 2, 0).numpy(), wanted, 1)
    assert not (targets == VOID).any()
