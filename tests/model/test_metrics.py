"""Scores: numbers worked by hand, torchmetrics' answers, one matrix over the whole set."""

import math

import pytest
import torch
from torch import Tensor
from torchmetrics.classification import (
    BinaryF1Score,
    BinaryJaccardIndex,
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassJaccardIndex,
)

from model.errors import InputError
from model.metrics import ConfusionMatrix

VOID = 255


def by_hand() -> ConfusionMatrix:
    """Four classes; class 3 is nowhere, class 2 is predicted but never true."""
    matrix = ConfusionMatrix(4)
    matrix.update(
        prediction=torch.tensor([[0, 0, 1, 2], [1, 1, 0, 3]]),
        target=torch.tensor([[0, 0, 0, 0], [1, 1, 1, VOID]], dtype=torch.uint8),
    )
    return matrix


def random_set(images: int = 6, classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(11)
    shape = (images, 8, 9)
    prediction = torch.randint(0, classes, shape, generator=generator)
    other = torch.randint(0, classes, shape, generator=generator)
    target = torch.where(torch.rand(shape, generator=generator) < 0.3, other, prediction)
    target[torch.rand(shape, generator=generator) < 0.1] = VOID
    return prediction.to(torch.uint8), target.to(torch.uint8)


def test_counts_have_truth_in_rows_and_leave_void_out() -> None:
    counts = by_hand().counts
    assert counts.dtype == torch.int64
    assert counts.tolist() == [[2, 1, 1, 0], [1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_scores_worked_by_hand() -> None:
    matrix = by_hand()
    iou, dice = matrix.iou(), matrix.dice()
    assert iou.dtype == dice.dtype == torch.float64
    assert iou[:3].tolist() == pytest.approx([2 / 5, 2 / 4, 0])
    assert dice[:3].tolist() == pytest.approx([4 / 7, 4 / 6, 0])
    assert iou[3].isnan()
    assert dice[3].isnan()
    assert matrix.miou() == pytest.approx((2 / 5 + 2 / 4 + 0) / 3)
    assert matrix.mean_dice() == pytest.approx((4 / 7 + 4 / 6 + 0) / 3)
    assert matrix.pixel_accuracy() == pytest.approx(4 / 7)


def test_two_classes_agree_with_the_binary_scores_of_torchmetrics() -> None:
    prediction, target = random_set(classes=2)
    matrix = ConfusionMatrix(2)
    matrix.update(prediction, target)
    args = (prediction.long(), target.long())
    iou = BinaryJaccardIndex(ignore_index=VOID)(*args)
    assert matrix.iou()[1].item() == pytest.approx(iou.item())
    dice = BinaryF1Score(ignore_index=VOID)(*args)
    assert matrix.dice()[1].item() == pytest.approx(dice.item())


def test_padding_with_void_counts_nothing() -> None:
    prediction, target = random_set()
    wide, void = torch.full((6, 20, 13), 2, dtype=torch.uint8), torch.full((6, 20, 13), VOID)
    wide[:, 5:13, 1:10], void[:, 5:13, 1:10] = prediction, target
    matrix, padded = ConfusionMatrix(5), ConfusionMatrix(5)
    matrix.update(prediction, target)
    padded.update(wide, void)
    assert torch.equal(matrix.counts, padded.counts)


def test_agrees_with_torchmetrics() -> None:
    prediction, target = random_set()
    matrix = ConfusionMatrix(7)  # classes 5 and 6 are absent on both sides
    matrix.update(prediction, target)
    args = (prediction.long(), target.long())
    each = MulticlassJaccardIndex(7, average="none", ignore_index=VOID)(*args)
    assert matrix.iou()[:5].tolist() == pytest.approx(each[:5].tolist())
    mean = MulticlassJaccardIndex(7, average="macro", ignore_index=VOID)(*args)
    assert matrix.miou() == pytest.approx(mean.item())
    f1 = MulticlassF1Score(7, average="none", ignore_index=VOID)(*args)
    assert matrix.dice()[:5].tolist() == pytest.approx(f1[:5].tolist())
    mean = MulticlassF1Score(7, average="macro", ignore_index=VOID)(*args)
    assert matrix.mean_dice() == pytest.approx(mean.item())
    accuracy = MulticlassAccuracy(7, average="micro", ignore_index=VOID)(*args)
    assert matrix.pixel_accuracy() == pytest.approx(accuracy.item())


def test_the_whole_set_is_scored_at_once_and_not_image_by_image() -> None:
    prediction = torch.tensor([[[0, 0], [0, 0]], [[1, 1], [1, 1]]])
    target = torch.tensor([[[0, 0], [0, 1]], [[1, 1], [1, 1]]])
    whole, by_image = ConfusionMatrix(2), ConfusionMatrix(2)
    whole.update(prediction, target)
    for p, t in zip(prediction, target, strict=True):
        by_image.update(p, t)
    assert whole.miou() == by_image.miou() == pytest.approx((3 / 4 + 4 / 5) / 2)
    mean_of_images = ((3 / 4 + 0 / 1) / 2 + 1) / 2
    assert abs(whole.miou() - mean_of_images) > 0.08
    assert torch.equal(whole.counts, by_image.counts)


def test_a_constant_prediction_is_charged_for_every_class() -> None:
    target = torch.tensor([0] * 70 + [1] * 20 + [2] * 10, dtype=torch.uint8).view(10, 10)
    matrix = ConfusionMatrix(21)
    matrix.update(torch.zeros_like(target), target)
    assert matrix.pixel_accuracy() == pytest.approx(0.7)
    assert matrix.miou() == pytest.approx(0.7 / 3)


def test_nothing_counted_scores_zero() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(torch.zeros(2, 2, dtype=torch.uint8), torch.full((2, 2), VOID))
    assert matrix.iou().isnan().all()
    assert matrix.miou() == 0.0
    assert matrix.mean_dice() == 0.0
    assert matrix.pixel_accuracy() == 0.0


def test_prediction_under_void_is_not_looked_at() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([[1, 200]]), torch.tensor([[1, VOID]]))
    assert int(matrix.counts.sum()) == 1


@pytest.mark.parametrize(
    ("prediction", "target", "said"),
    [
        (0, 3, "target has class 3, outside 0..2"),
        (0, 254, "target has class 254"),
        (0, -1, "target has class -1"),
        (3, 0, "prediction has class 3"),
        (-1, 1, "prediction has class -1"),
    ],
)
def test_classes_out_of_range(prediction: int, target: int, said: str) -> None:
    matrix = ConfusionMatrix(3)
    with pytest.raises(InputError, match=said):
        matrix.update(torch.tensor([[0, prediction]]), torch.tensor([[0, target]]))
    assert int(matrix.counts.sum()) == 0


def test_shapes_must_match() -> None:
    with pytest.raises(ValueError, match="differ"):
        ConfusionMatrix(3).update(torch.zeros(1, 2, 2), torch.zeros(2, 2))


def test_large_counts_are_exact() -> None:
    matrix = ConfusionMatrix(2)
    matrix.counts = torch.tensor([[2**40, 1], [0, 2**40]])
    assert matrix.iou()[0].item() == 2**40 / (2**40 + 1) < 1
    assert not math.isclose(matrix.miou(), 1.0, rel_tol=1e-14)
