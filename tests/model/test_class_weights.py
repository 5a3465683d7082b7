"""Class weights: what pixel counts make of them, and which losses heed them."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.errors import InputError
from model.losses import build_loss, class_weights
from model.recipe import Recipe
from tiny import RECIPE

VOID = 255
WEIGHTS = (0.5, 1.0, 4.0)


def recipe(kind: str, loss: str = "cross_entropy", **settings: float) -> Recipe:
    return RECIPE.override({"class_weights": kind, "loss": loss, **settings})


def batch(classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(2, classes, 6, 5, generator=generator, dtype=torch.float64)
    target = torch.randint(0, classes, (2, 6, 5), generator=generator)
    target[:, 0] = VOID
    return logits, target


def test_weights_worked_by_hand() -> None:
    counts = (700, 200, 100)
    assert class_weights(recipe("none"), counts) is None
    assert class_weights(recipe("median-frequency"), counts) == pytest.approx((2 / 7, 1, 2))
    log = class_weights(recipe("log"), counts)
    assert log == pytest.approx((1 / math.log(1.72), 1 / math.log(1.22), 1 / math.log(1.12)))


def test_a_class_that_is_never_seen_weighs_nothing_and_moves_no_median() -> None:
    counts = (50, 0, 30, 20)
    assert class_weights(recipe("median-frequency"), counts) == pytest.approx((0.6, 0, 1, 1.5))
    log = class_weights(recipe("log"), counts)
    assert log == pytest.approx((1 / math.log(1.52), 0, 1 / math.log(1.32), 1 / math.log(1.22)))


@pytest.mark.parametrize("kind", ["median-frequency", "log"])
def test_a_split_of_nothing_but_void_has_no_weights(kind: str) -> None:
    with pytest.raises(InputError, match=f"class_weights={kind} needs labelled pixels"):
        class_weights(recipe(kind), (0, 0, 0))


def test_weights_go_with_a_recipe_that_wants_them() -> None:
    with pytest.raises(ValueError, match="class_weights=log does not go with weights=None"):
        build_loss(recipe("log"))
    with pytest.raises(ValueError, match="class_weights=none does not go with"):
        build_loss(recipe("none"), WEIGHTS)


@pytest.mark.parametrize("text", ["cross_entropy", "focal"])
def test_agrees_with_weighted_cross_entropy_of_torch(text: str) -> None:
    logits, target = batch()
    theirs = F.cross_entropy(
        logits, target, torch.tensor(WEIGHTS, dtype=torch.float64), ignore_index=VOID
    )
    ours = build_loss(recipe("log", text, focal_gamma=0.0), WEIGHTS)(logits, target)
    assert ours.item() == pytest.approx(theirs.item())


def test_a_pixel_weighs_what_its_true_class_does_in_bce_and_focal() -> None:
    logits, target = batch()
    kept = target != VOID
    pixels, classes = logits.movedim(1, -1)[kept], target[kept]
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)[classes]
    truth = F.one_hot(classes, 3).double()
    bce = F.binary_cross_entropy_with_logits(pixels, truth, reduction="none").mean(1)
    p = pixels.softmax(1)[torch.arange(len(classes)), classes]
    for text, losses in (("bce", bce), ("focal", -((1 - p) ** 2) * p.log())):
        ours = build_loss(recipe("log", text), WEIGHTS)(logits, target)
        assert ours.item() == pytest.approx(((weights * losses).sum() / weights.sum()).item())


def test_bce_of_two_classes_is_weighted_cross_entropy() -> None:
    logits, target = batch(classes=2)
    bce, other = (
        build_loss(recipe("log", text), (1.0, 3.0))(logits, target)
        for text in ("bce", "cross_entropy")
    )
    assert torch.equal(bce, other)


@pytest.mark.parametrize("text", ["dice", "jaccard", "tversky", "lovasz"])
def test_averages_over_classes_stay_as_they_are(text: str) -> None:
    logits, target = batch()

    def loss(kind: str, weights: tuple[float, ...] | None) -> Tensor:
        both = recipe(kind, f"{text} + cross_entropy"), recipe(kind, "cross_entropy")
        whole, other = (build_loss(one, weights)(logits, target) for one in both)
        return whole - other

    torch.testing.assert_close(loss("log", WEIGHTS), loss("none", None))


@pytest.mark.parametrize("text", ["cross_entropy", "bce", "focal"])
def test_the_scale_of_the_weights_cancels(text: str) -> None:
    logits, target = batch()
    values = [
        build_loss(recipe("log", text), [scale * w for w in WEIGHTS])(logits, target).item()
        for scale in (1, 8)
    ]
    assert values[0] == pytest.approx(values[1])


@pytest.mark.parametrize("text", ["cross_entropy", "bce", "focal"])
def test_pixels_that_weigh_nothing_are_worth_nothing(text: str) -> None:
    logits, target = batch()
    logits.requires_grad_()
    value = build_loss(recipe("log", text), (1.0, 0.0, 1.0))(logits, target.clamp(1, 1))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert torch.all(logits.grad == 0)


@pytest.mark.parametrize("text", ["cross_entropy", "bce", "focal"])
def test_gradient_is_that_of_the_weighted_value(text: str) -> None:
    logits, target = batch()
    loss = build_loss(recipe("log", text), WEIGHTS)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, target), (logits,))
