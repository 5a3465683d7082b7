"""Augmentation: the same for the same seed, photo and mask together, void outside the photo."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.augment import Plan, as_seen, drawn_chances
from model.augment_batch import NOWHERE, packed, sampled
from model.augment_photo import augmented
from model.images import OUTSIDE, Image
from model.manifest import VOID
from model.order import Draw
from model.recipe import Recipe
from tiny import COLOURS, RECIPE, labelled

SIZE = RECIPE.image_size.height
PLAIN = {"jitter": 0, "rotate": 0, "scale": (1, 1), "flip": 0}


Augment = Callable[[Image, Image, int], tuple[Image, Image]]
Augmenting = Callable[[Recipe], Augment]


def by_opencv(recipe: Recipe) -> Augment:
    """What a loader process does, to one photo."""
    return lambda photo, mask, seed: one(recipe, photo, mask, seed, augmented)


def by_tensors(recipe: Recipe) -> Augment:
    """What is done on a GPU, to one photo."""

    def batch(pairs: list[tuple[Image, Image]], plan: Plan) -> tuple[Image, Image]:
        pixels = torch.cat([packed(*pairs[0]), NOWHERE])
        sizes = np.array([pairs[0][1].shape])
        images, targets = sampled(pixels, np.zeros(1, np.int64), sizes, plan)
        return images.permute(0, 2, 3, 1).numpy(), targets.numpy()

    return lambda photo, mask, seed: one(recipe, photo, mask, seed, batch)


def one(
    recipe: Recipe, photo: Image, mask: Image, seed: int,
    render: Callable[[list[tuple[Image, Image]], Plan], tuple[Image, Image]],
) -> tuple[Image, Image]:  # fmt: skip
    seen = as_seen(photo, mask, recipe)
    chances = drawn_chances(seed, [Draw(0, 0)], ["photo"])
    photos, masks = render([seen], Plan.of(recipe, np.array([seen[1].shape]), chances))
    return photos[0], masks[0]


@pytest.fixture(params=[by_opencv, by_tensors], scope="module")
def augmenting(request: pytest.FixtureRequest) -> Augmenting:
    by: Augmenting = request.param
    return by


def ramp(height: int, width: int) -> Image:
    """A photo whose red says the row and whose green says the column."""
    photo = np.zeros((height, width, 3), np.uint8)
    photo[..., 0] = np.arange(height)[:, None]
    photo[..., 1] = np.arange(width)
    return photo


def test_the_same_seed_gives_the_same_whatever_came_before(
    augmenting: Augmenting,
) -> None:
    photo, mask = labelled(0, 30, 40)
    fresh, used = augmenting(RECIPE), augmenting(RECIPE)
    for seed in range(7):
        used(*labelled(seed, 25, 31), seed)
    for seed in (3, 2**32 - 1):
        for left, right in zip(fresh(photo, mask, seed), used(photo, mask, seed), strict=True):
            np.testing.assert_array_equal(left, right)


def test_chances_are_those_of_seed_epoch_and_photo_whoever_is_beside_it() -> None:
    one, epoch, photo = drawn_chances(3, [Draw(0, 5), Draw(1, 5), Draw(0, 6)], ["a", "a", "b"])
    (seed,) = drawn_chances(4, [Draw(0, 5)], ["a"])
    (again,) = drawn_chances(3, [Draw(0, 9)], ["a"])
    np.testing.assert_array_equal(one, again)
    assert len({tuple(chances) for chances in (one, epoch, photo, seed)}) == 4


def test_seeds_differ(augmenting: Augmenting) -> None:
    photo, mask = labelled(0, 30, 40)
    augment = augmenting(RECIPE)
    assert len({augment(photo, mask, seed)[0].tobytes() for seed in range(20)}) == 20


@given(
    height=st.integers(1, 90), width=st.integers(1, 90), seed=st.integers(0, 2**32 - 1)
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_size_dtype_and_classes(augmenting: Augmenting, height: int, width: int, seed: int) -> None:
    photo, mask = labelled(1, height, width)
    image, target = augmenting(RECIPE)(photo, mask, seed)
    assert image.shape == (SIZE, SIZE, 3)
    assert target.shape == (SIZE, SIZE)
    assert image.dtype == target.dtype == np.uint8
    assert set(np.unique(target)) <= {*np.unique(mask), VOID}


def test_the_smallest_and_a_large_photo(augmenting: Augmenting) -> None:
    augment = augmenting(RECIPE.override({"scale": (0.05, 0.05)}))
    for height, width in ((1, 1), (1, 300), (2000, 3000)):
        image, target = augment(*labelled(1, height, width), 0)
        assert image.shape == (SIZE, SIZE, 3)
        assert target.shape == (SIZE, SIZE)


def test_photo_and_mask_stay_together(augmenting: Augmenting) -> None:
    # Two tones by class; what is interpolated lies between them, so only clear pixels count.
    recipe = RECIPE.override({"jitter": 0, "rotate": 40})
    augment = augmenting(recipe)
    right, seen = [], 0
    for seed in range(40):
        mask = labelled(seed, 60, 50)[1]
        mask[0] = 0
        image, target = augment(COLOURS[mask], mask, seed)
        distance = np.abs(image[:, :, None].astype(int) - COLOURS).sum(-1)
        clear = (distance.min(-1) < 5) & (target != VOID)
        right.append((distance.argmin(-1) == target)[clear].mean())
        seen += int((target[clear] > 0).sum())
    # Photos are interpolated, masks are not, so an edge may lie a pixel apart.
    assert min(right) > 0.93
    assert np.mean(right) > 0.99
    assert seen > 500


def test_void_lies_outside_the_photo_and_nowhere_else(
    augmenting: Augmenting,
) -> None:
    augment = augmenting(RECIPE.override({"jitter": 0, "rotate": 30, "scale": (1, 1)}))
    for seed in range(10):
        photo, mask = np.full((10, 8, 3), 200, np.uint8), np.zeros((10, 8), np.uint8)
        image, target = augment(photo, mask, seed)
        assert (target == VOID).sum() > SIZE * SIZE / 2
        assert (image[target == VOID] == OUTSIDE).all()
        assert (image[target == 0] == 200).all()


def test_scale_position_and_flip_are_drawn_independently(
    augmenting: Augmenting,
) -> None:
    recipe = RECIPE.override({"jitter": 0, "rotate": 0, "scale": (0.5, 2)})
    augment = augmenting(recipe)
    photo, mask = ramp(100, 100), np.zeros((100, 100), np.uint8)
    drawn = []
    for seed in range(150):
        image, _ = augment(photo, mask, seed)
        image = image.astype(float)
        step = (image[-1, 0, 0] - image[0, 0, 0]) / (SIZE - 1)  # rows of the photo a row
        across = image[0, -1, 1] - image[0, 0, 1]
        span = 100 - step * SIZE  # what the position was drawn from
        middle = image[:, :, 1].mean()
        drawn.append((step, image[0, 0, 0] / span, middle, across > 0))
    correlation = np.corrcoef(np.array(drawn, float).T)
    assert np.abs(correlation - np.eye(4)).max() < 0.35
    flipped = np.mean([not forwards for *_, forwards in drawn])
    assert 0.35 < flipped < 0.65


@pytest.mark.parametrize(("flip", "forwards"), [(0, True), (1, False)])
def test_flip(augmenting: Augmenting, flip: float, forwards: bool) -> None:
    recipe = RECIPE.override(PLAIN | {"flip": flip})
    photo, mask = ramp(40, 40), np.zeros((40, 40), np.uint8)
    for seed in range(5):
        image, _ = augmenting(recipe)(photo, mask, seed)
        assert (image[0, 0, 1] < image[0, -1, 1]) == forwards


def test_vertical_flip(augmenting: Augmenting) -> None:
    recipe = RECIPE.override(PLAIN | {"flip_vertical": 1})
    image, _ = augmenting(recipe)(ramp(40, 40), np.zeros((40, 40), np.uint8), 0)
    assert image[0, 0, 0] > image[-1, 0, 0]
    drawn = RECIPE.override(PLAIN | {"flip_vertical": 0.1})
    rows = [augmenting(drawn)(ramp(40, 40), np.zeros((40, 40), np.uint8), s)[0] for s in range(99)]
    assert 2 <= sum(int(image[0, 0, 0] > image[-1, 0, 0]) for image in rows) <= 25


@pytest.mark.parametrize("shape", [(40, 60), (12, 10), (24, 36), (1, 1)], ids=str)
def test_resize_shows_the_whole_photo_at_any_size(
    augmenting: Augmenting, shape: tuple[int, int]
) -> None:
    recipe = RECIPE.override(PLAIN | {"fit": "resize", "image_size": "24x36"})
    height, width = shape
    mask = np.zeros(shape, np.uint8)
    mask[: height // 2], mask[:, : width // 2] = 1, 2
    image, target = augmenting(recipe)(COLOURS[mask], mask, 0)
    assert image.shape == (24, 36, 3)
    assert target.shape == (24, 36)
    for part in (np.s_[0, -1], np.s_[-1, -1], np.s_[-1, 0]):
        wanted = mask[part]
        assert target[part] == wanted
        np.testing.assert_allclose(image[part].astype(int), COLOURS[wanted].astype(int), atol=3)
    assert set(np.unique(target)) <= set(np.unique(mask))  # classes are never mixed


def test_pad_leaves_what_fits_as_it_is_and_shrinks_the_rest(
    augmenting: Augmenting,
) -> None:
    recipe = RECIPE.override(PLAIN | {"fit": "pad", "image_size": "20x30"})
    augment = augmenting(recipe)
    photo, mask = labelled(0, 17, 30)
    image, target = augment(photo, mask, 0)
    np.testing.assert_array_equal(image, photo)
    np.testing.assert_array_equal(target, mask)
    shapes = {(40, 30): (20, 15), (20, 60): (10, 30), (400, 1): (20, 1)}
    for (height, width), wanted in shapes.items():
        image, target = augment(*labelled(0, height, width), 0)
        assert image.shape == (*wanted, 3)
        assert target.shape == wanted


def test_without_any_setting_it_only_crops(augmenting: Augmenting) -> None:
    recipe = RECIPE.override(PLAIN)
    photo, mask = ramp(40, 50), np.arange(2000, dtype=np.uint8).reshape(40, 50) % 3
    for seed in range(5):
        image, target = augmenting(recipe)(photo, mask, seed)
        top, left = int(image[0, 0, 0]), int(image[0, 0, 1])
        np.testing.assert_array_equal(image, photo[top : top + SIZE, left : left + SIZE])
        np.testing.assert_array_equal(target, mask[top : top + SIZE, left : left + SIZE])


def test_jitter_leaves_the_mask_alone(augmenting: Augmenting) -> None:
    photo, mask = labelled(0, SIZE, SIZE)
    recipe = RECIPE.override(PLAIN | {"jitter": 1})
    images = set()
    for seed in range(10):
        image, target = augmenting(recipe)(photo, mask, seed)
        np.testing.assert_array_equal(target, mask)
        images.add(image.tobytes())
    assert len(images) > 5
