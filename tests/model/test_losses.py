"""Losses: numbers worked by hand, other libraries' answers, and the silence of void pixels."""

import math
import subprocess
import sys

import pytest
import torch
from segmentation_models_pytorch import losses as smp
from torch import Tensor

from model.errors import InputError
from model.loss_terms import LOSS_TERMS, parse_loss
from model.losses import Loss, build_loss
from tiny import RECIPE

VOID = 255
ALL_TERMS = " + ".join(LOSS_TERMS)


def loss_of(text: str, **weights: float) -> Loss:
    return build_loss(RECIPE.override({"loss": text, **weights}))


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
    ("text", "weights"),
    [
        ("tversky + cross_entropy", {"tversky": 1.0, "cross_entropy": 1.0}),
        ("0.5*dice + jaccard", {"dice": 0.5, "jaccard": 1.0}),
        ("  1e-2 * dice+2*tversky ", {"dice": 0.01, "tversky": 2.0}),
    ],
)
def test_parse_loss_reads_a_weighted_sum(text: str, weights: dict[str, float]) -> None:
    assert parse_loss(text) == weights


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dice + focal", "'focal'.*cross_entropy, dice, jaccard, tversky"),
        ("dice + 0.5*dice", "names dice twice"),
        ("", "unknown term ''"),
        ("dice +", "unknown term ''"),
        ("dice*0.5", "unknown term '0.5'"),
        ("half*dice", "weight 'half'"),
        ("-1*dice", "weight '-1'"),
        ("0*dice", "weight '0'"),
        ("nan*dice", "weight 'nan'"),
        ("inf*dice", "weight 'inf'"),
    ],
)
def test_parse_loss_refuses_and_says_why(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_loss(text)


def test_parse_loss_does_not_load_torch() -> None:
    code = "import sys, model.loss_terms; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("cross_entropy", -(math.log(0.75) + math.log(0.5)) / 2),
        # Class 0: TP 3/4, FP 1/2, FN 1/4. Class 1: TP 1/2, FP 1/4, FN 1/2.
        ("tversky", 1 - (0.75 / (0.75 + 0.3 * 0.5 + 0.7 * 0.25) + 0.5 / (0.5 + 0.075 + 0.35)) / 2),
        ("dice", 1 - (2 / 3 + 4 / 7) / 2),
        ("jaccard", 1 - (1 / 2 + 2 / 5) / 2),
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


@pytest.mark.parametrize(
    ("text", "theirs"),
    [
        ("dice", smp.DiceLoss("multiclass", ignore_index=VOID, eps=0)),
        ("jaccard", smp.JaccardLoss("multiclass", ignore_index=VOID, eps=0)),
        ("tversky", smp.TverskyLoss("multiclass", ignore_index=VOID, eps=0, alpha=0.3, beta=0.7)),
        ("cross_entropy", torch.nn.CrossEntropyLoss(ignore_index=VOID)),
    ],
)
def test_agrees_with_other_libraries(text: str, theirs: torch.nn.Module) -> None:
    logits, target = random_batch()
    expected = theirs(logits, target).item()
    assert loss_of(text)(logits, target.to(torch.uint8)).item() == pytest.approx(expected)


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
