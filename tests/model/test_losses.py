"""Losses: numbers worked by hand, other libraries' answers, and the silence of void pixels."""

import math

import pytest
import torch
from segmentation_models_pytorch import losses as smp
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from model.loss_terms import LOSS_TERMS
from model.losses import Loss, Pixels, build_loss
from tiny import RECIPE

VOID = 255
ALL_TERMS = " + ".join(LOSS_TERMS)


@pytest.fixture(params=["as on a CPU", "as on a GPU"], autouse=True)
def void_is(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left out, or kept and counted as nothing: whatever is said of a loss holds of both."""
    if request.param == "as on a GPU":
        monkeypatch.setattr(Pixels, "gathered", Pixels.masked)


def loss_of(text: str, **settings: float) -> Loss:
    return build_loss(RECIPE.override({"loss": text, **settings}))


def random_batch(classes: int = 4, size: tuple[int, int, int] = (3, 9, 7)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    n, height, width = size
    logits = 2 * torch.randn(n, classes, height, width, generator=generator, dtype=torch.float64)
    target = torch.randint(0, classes, size, generator=generator)
    target[torch.rand(size, generator=generator) < 0.2] = VOID
    return logits, target


def two_pixels() -> tuple[Tensor, Tensor]:
    """Probabilities (3/4, 1/4) where class 0 is true, (1/2, 1/2) where class 1 is."""
    probs = torch.tensor([[0.75, 0.5], [0.25, 0.5]], dtype=torch.float64)
    return probs.log().view(1, 2, 1, 2), torch.tensor([[[0, 1]]])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("cross_entropy", -(math.log(0.75) + math.log(0.5)) / 2),
        # Class 0: TP 3/4, FP 1/2, FN 1/4. Class 1: TP 1/2, FP 1/4, FN 1/2.
        ("tversky", 1 - (0.75 / (0.75 + 0.3 * 0.5 + 0.7 * 0.25) + 0.5 / (0.5 + 0.075 + 0.35)) / 2),
        ("dice", 1 - (2 / 3 + 4 / 7) / 2),
        ("jaccard", 1 - (1 / 2 + 2 / 5) / 2),
        ("bce", -(math.log(0.75) + math.log(0.5)) / 2),
        ("focal", -(0.25**2 * math.log(0.75) + 0.5**2 * math.log(0.5)) / 2),
        # One minus Jaccard grows, from the greatest error on: class 0, errors 1/2 (not of it) and
        # 1/4, by 1/2 and 1/2; class 1, errors 1/2 and 1/4 (not of it), by 1 and 0.
        ("lovasz", ((0.5 * 0.5 + 0.25 * 0.5) + 0.5 * 1) / 2),
        ("0.5*dice + 2*jaccard", 0.5 * (1 - (2 / 3 + 4 / 7) / 2) + 2 * 0.55),
    ],
)
def test_losses_worked_by_hand(text: str, value: float) -> None:
    logits, target = two_pixels()
    assert loss_of(text)(logits, target).item() == pytest.approx(value, abs=1e-12)


def test_alpha_weighs_false_positives_and_beta_false_negatives() -> None:
    logits, target = two_pixels()
    loss = loss_of("tversky", tversky_alpha=0.0, tversky_beta=2.0)
    expected = 1 - (0.75 / (0.75 + 2 * 0.25) + 0.5 / (0.5 + 2 * 0.5)) / 2
    assert loss(logits, target).item() == pytest.approx(expected, abs=1e-12)


def test_bce_of_many_classes_is_one_against_the_rest() -> None:
    # Each class has a sigmoid of its own: 3/4, 1/2 and 1/2.
    logits = torch.tensor([3.0, 1, 1], dtype=torch.float64).log().view(1, 3, 1, 1)
    value = loss_of("bce")(logits, torch.zeros(1, 1, 1, dtype=torch.uint8)).item()
    assert value == pytest.approx(-(math.log(3 / 4) + 2 * math.log(1 / 2)) / 3, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "theirs"),
    [
        ("dice", smp.DiceLoss("multiclass", ignore_index=VOID, eps=0)),
        ("jaccard", smp.JaccardLoss("multiclass", ignore_index=VOID, eps=0)),
        ("tversky", smp.TverskyLoss("multiclass", ignore_index=VOID, eps=0, alpha=0.3, beta=0.7)),
        ("cross_entropy", torch.nn.CrossEntropyLoss(ignore_index=VOID)),
        ("lovasz", smp.LovaszLoss("multiclass", ignore_index=VOID, per_image=False)),
    ],
)
def test_agrees_with_other_libraries(text: str, theirs: torch.nn.Module) -> None:
    logits, target = random_batch()
    logits = logits.float()  # smp's Lovász loss takes nothing else
    expected = theirs(logits, target).item()
    assert loss_of(text)(logits, target.to(torch.uint8)).item() == pytest.approx(expected)


def test_bce_and_focal_of_two_classes_are_those_of_one_channel() -> None:
    logits, target = random_batch(classes=2)
    kept = target != VOID
    channel, truth = (logits[:, 1] - logits[:, 0]), target.double()
    bce = F.binary_cross_entropy_with_logits(channel[kept], truth[kept])
    assert loss_of("bce")(logits, target).item() == pytest.approx(bce.item())
    assert loss_of("cross_entropy")(logits, target).item() == pytest.approx(bce.item())
    for gamma in (0.5, 2.0, 3.0):
        ours = loss_of("focal", focal_gamma=gamma)(logits, target).item()
        theirs = sigmoid_focal_loss(channel[kept], truth[kept], -1, gamma, "mean")
        assert ours == pytest.approx(theirs.item())
        theirs = smp.FocalLoss("binary", gamma=gamma, ignore_index=VOID)(channel, target)
        assert ours == pytest.approx(theirs.item())


def test_bce_of_many_classes_agrees_with_torch() -> None:
    logits, target = random_batch()
    kept = target != VOID
    truth = F.one_hot(target[kept], 4).double()
    theirs = F.binary_cross_entropy_with_logits(logits.movedim(1, -1)[kept], truth)
    assert loss_of("bce")(logits, target).item() == pytest.approx(theirs.item())


def test_focal_without_gamma_is_cross_entropy() -> None:
    logits, target = random_batch()
    focal, other = loss_of("focal", focal_gamma=0.0), loss_of("cross_entropy")
    assert focal(logits, target).item() == pytest.approx(other(logits, target).item())


def test_lovasz_runs_over_the_batch_and_not_over_each_photo() -> None:
    logits, target = random_batch(classes=2)
    whole = loss_of("lovasz")(logits, target).item()
    aside = loss_of("lovasz")(logits.transpose(0, 2), target.transpose(0, 1)).item()
    each = [loss_of("lovasz")(logits[i : i + 1], target[i : i + 1]).item() for i in range(3)]
    assert whole == pytest.approx(aside)
    assert abs(whole - sum(each) / 3) > 1e-3


def test_lovasz_gradient_keeps_its_digits_over_many_pixels() -> None:
    # Errors are a few millionths apart, and so are the values of one minus Jaccard.
    errors = torch.linspace(0.1, 0.9, 2**17, dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    target = torch.randint(0, 2, errors.shape, generator=generator)
    probs = torch.where(target == 1, 1 - errors, errors)
    logits = torch.stack([(1 - probs).log(), probs.log()]).view(1, 2, 256, 512)
    gradients = []
    for x in (logits.clone(), logits.float()):
        x.requires_grad_()
        loss_of("lovasz")(x, target.view(1, 256, 512)).backward()
        assert x.grad is not None
        gradients.append(x.grad.double())
    assert torch.allclose(gradients[1], gradients[0], rtol=1e-4, atol=0)


def test_average_is_over_present_classes_where_smp_divides_by_all() -> None:
    logits, target = random_batch(classes=5)
    target[target == 4] = 1
    ours = loss_of("jaccard")(logits, target).item()
    theirs = smp.JaccardLoss("multiclass", ignore_index=VOID, eps=0)(logits, target).item()
    assert ours == pytest.approx(theirs * 5 / 4)


def test_region_sums_run_over_the_batch_and_not_over_each_photo() -> None:
    # Both photos hold class 0; the first is right, the second is wrong about half its pixels.
    probs = torch.tensor([[[1.0, 1.0]], [[1.0, 0.0]]], dtype=torch.float64)
    logits = torch.stack([probs, 1 - probs], dim=1).clamp(1e-300, 1).log()
    target = torch.zeros(2, 1, 2, dtype=torch.uint8)
    loss = loss_of("jaccard")
    assert loss(logits, target).item() == pytest.approx(1 - 3 / 4)
    each = [loss(logits[i : i + 1], target[i : i + 1]).item() for i in range(2)]
    assert sum(each) / 2 == pytest.approx(1 - 3 / 4)
    target[1, 0, 1] = 1
    assert loss(logits, target).item() == pytest.approx(0)


@pytest.mark.parametrize("text", [*LOSS_TERMS, ALL_TERMS])
def test_gradient_is_that_of_the_value(text: str) -> None:
    logits, target = random_batch(classes=4, size=(2, 3, 2))
    target[target == 3] = 0
    loss = loss_of(text)
    logits.requires_grad_()
    assert loss(logits, target).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda x: loss(x, target), (logits,))


@pytest.mark.parametrize("text", LOSS_TERMS)
@pytest.mark.parametrize("poison", [7.0, -1e30, math.inf, math.nan])
def test_void_pixels_change_neither_value_nor_gradient(text: str, poison: float) -> None:
    loss = loss_of(text)
    logits, target = random_batch()
    void = (target == VOID).unsqueeze(1).expand_as(logits)
    poisoned = logits.masked_fill(void, poison)
    results = []
    for x in (logits, poisoned):
        x.requires_grad_()
        value = loss(x, target)
        (gradient,) = torch.autograd.grad(value, x)
        results.append((value, gradient))
    (value, gradient), (same_value, same_gradient) = results
    assert torch.equal(value, same_value)
    assert torch.equal(gradient, same_gradient)
    assert torch.all(gradient[void] == 0)
    assert torch.all(gradient[~void] != 0)


@pytest.mark.parametrize("void_is", ["as on a CPU"], indirect=True)
@pytest.mark.parametrize("text", [*LOSS_TERMS, ALL_TERMS])
@pytest.mark.parametrize("poison", [0.0, math.inf])
def test_padding_with_void_changes_not_a_bit(text: str, poison: float) -> None:
    loss = loss_of(text)
    logits, target = random_batch(size=(2, 23, 17))
    logits = logits.float()
    inner = (..., slice(2, 25), slice(3, 20))
    wide = torch.full((2, 4, 31, 40), poison)
    wide[inner] = logits
    void = torch.full((2, 31, 40), VOID)
    void[inner] = target
    logits.requires_grad_()
    wide.requires_grad_()
    value, padded = loss(logits, target), loss(wide, void)
    assert torch.equal(value, padded)
    (gradient,) = torch.autograd.grad(value, logits)
    (padded_gradient,) = torch.autograd.grad(padded, wide)
    assert torch.equal(padded_gradient[inner], gradient)


@pytest.mark.parametrize("void_is", ["as on a CPU"], indirect=True)
@pytest.mark.parametrize("text", [*LOSS_TERMS, ALL_TERMS])
@pytest.mark.parametrize("weights", [None, (0.5, 0, 2, 1)])
@pytest.mark.parametrize("poison", [7.0, math.inf, math.nan])
def test_void_left_out_and_void_counted_as_nothing_are_equal(
    text: str, weights: tuple[float, ...] | None, poison: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, target = random_batch(size=(2, 23, 17))
    logits.masked_fill_((target == VOID).unsqueeze(1), poison).requires_grad_()
    if weights and "cross_entropy" not in text:
        text += " + cross_entropy"
    kind = "none" if weights is None else "log"
    loss = build_loss(RECIPE.override({"loss": text, "class_weights": kind}), weights)
    results = []
    for _ in range(2):
        value = loss(logits, target)
        results.append((value, *torch.autograd.grad(value, logits)))
        monkeypatch.setattr(Pixels, "gathered", Pixels.masked)
    for left_out, counted in zip(*results, strict=True):
        torch.testing.assert_close(counted, left_out, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("text", [*LOSS_TERMS, ALL_TERMS])
def test_a_batch_of_nothing_but_void_is_worth_nothing(text: str) -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    value = loss_of(text)(logits, torch.full((2, 4, 4), VOID, dtype=torch.uint8))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert torch.all(logits.grad == 0)


@pytest.mark.parametrize("text", LOSS_TERMS)
@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_confident_logits_and_absent_classes_give_finite_gradients(text: str, alpha: float) -> None:
    logits, target = random_batch()
    target[target == 3] = 0
    logits = 1e4 * logits.float()
    logits[:, 3] = -1e5
    logits.requires_grad_()
    value = loss_of(text, tversky_alpha=alpha)(logits, target)
    value.backward()
    assert logits.grad is not None
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0])
def test_focal_has_a_finite_gradient_at_certainty(gamma: float) -> None:
    logits = torch.tensor([1e4, -1e4]).view(1, 2, 1, 1).repeat(1, 1, 1, 2).requires_grad_()
    value = loss_of("focal", focal_gamma=gamma)(logits, torch.tensor([[[0, 1]]]))
    value.backward()
    assert value.item() == pytest.approx(1e4)  # 0 where it is right, 20000 where it is wrong
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == pytest.approx([0, 0.5, 0, -0.5])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_float32(dtype: torch.dtype) -> None:
    # Counted in bf16, 4096 pixels would stop at 256.
    logits, target = random_batch(size=(1, 64, 64))
    half = logits.to(dtype)
    loss = loss_of(ALL_TERMS)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(half, target)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(half.double(), target).item(), rel=1e-6)


def test_memory_format_does_not_matter() -> None:
    logits, target = random_batch()
    loss = loss_of(ALL_TERMS)
    last = loss(logits.contiguous(memory_format=torch.channels_last), target)
    assert last.item() == pytest.approx(loss(logits, target).item())


def test_a_class_outside_the_net_is_an_error() -> None:
    logits, target = random_batch(classes=4)
    target[0, 0, 0] = 4
    for text in LOSS_TERMS:
        with pytest.raises(RuntimeError, match="out of bounds"):
            loss_of(text)(logits, target)


@pytest.mark.parametrize("shape", [(3, 9, 6), (3, 1, 9, 7), (1, 9, 7)])
def test_shapes_must_match(shape: tuple[int, ...]) -> None:
    logits, _ = random_batch()
    with pytest.raises(ValueError, match="need a target"):
        loss_of("dice")(logits, torch.zeros(shape, dtype=torch.uint8))
