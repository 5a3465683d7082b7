"""A paired bootstrap finds out what a pair of means cannot."""

import numpy as np
import pytest
import torch

from model.bootstrap import Counts, iou, judge
from model.errors import InputError
from model.metrics import ConfusionMatrix
from model.verdict import Verdict

CLASSES = ("background", "cat", "dog")


def counts(hits: list[list[int]], true: list[list[int]], predicted: list[list[int]]) -> Counts:
    """[N, 3, C] of lists [N, C]."""
    return np.stack([np.array(part, np.int64) for part in (hits, true, predicted)], axis=1)


def random_counts(images: int, skill: float, seed: int) -> Counts:
    """Of a net that gets a pixel right so often, on images of different difficulty."""
    random = np.random.default_rng(seed)
    difficulty = np.random.default_rng(99).uniform(0.6, 1.0, images)
    made = []
    for image in range(images):
        truth = torch.from_numpy(np.random.default_rng(image).integers(0, 3, (20, 20)))
        wrong = torch.from_numpy(random.random((20, 20)) > skill * difficulty[image])
        prediction = torch.where(wrong, (truth + 1) % 3, truth)
        matrix = ConfusionMatrix(3)
        matrix.update(prediction, truth)
        made.append(torch.stack([matrix.counts.diag(), matrix.counts.sum(1), matrix.counts.sum(0)]))
    return torch.stack(made).numpy()


def judged(challenger: Counts, champion: Counts, **terms: float | None) -> Verdict:
    wanted = {"confidence": 0.95, "margin": 0.0, "class_drop": 0.05} | terms
    return judge(challenger, champion, CLASSES, **wanted)  # type: ignore[arg-type]


def test_iou_by_hand() -> None:
    one = counts([[4, 1, 0]], [[6, 2, 0]], [[4, 4, 0]])
    assert iou(one[0]).tolist()[:2] == [4 / 6, 1 / 5]
    assert np.isnan(iou(one[0])[2])


def test_scores_are_those_of_the_confusion_matrix() -> None:
    matrix = ConfusionMatrix(3)
    truth = torch.tensor([[0, 0, 1, 1], [0, 255, 1, 1]])
    prediction = torch.tensor([[0, 1, 1, 1], [0, 0, 1, 0]])
    rows = []
    for row in range(2):
        one = ConfusionMatrix(3)
        for into in (one, matrix):
            into.update(prediction[row], truth[row])
        rows.append(torch.stack([one.counts.diag(), one.counts.sum(1), one.counts.sum(0)]))
    both = torch.stack(rows).numpy()
    verdict = judged(both, both)
    assert verdict.challenger == pytest.approx(matrix.miou())
    assert [ours for ours, _ in verdict.by_class.values()] == [
        pytest.approx(matrix.iou()[0].item()),
        pytest.approx(matrix.iou()[1].item()),
        None,
    ]


def test_equal_nets_do_not_differ() -> None:
    same = random_counts(30, 0.8, seed=1)
    verdict = judged(same, same)
    assert (verdict.low, verdict.difference, verdict.high) == (0, 0, 0)
    assert not verdict.better


def test_what_is_better_by_far_is_better() -> None:
    verdict = judged(random_counts(40, 0.9, seed=1), random_counts(40, 0.7, seed=2))
    assert verdict.better
    assert 0 < verdict.low < verdict.difference < verdict.high


def test_luck_is_not_enough() -> None:
    """Equally good nets; one is ahead by chance, and the interval knows it."""
    pairs = [(random_counts(20, 0.8, seed=n), random_counts(20, 0.8, seed=100 + n)) for n in (1, 2)]
    ahead = [judged(*pair) for pair in pairs] + [judged(*pair[::-1]) for pair in pairs]
    assert any(verdict.difference > 0 for verdict in ahead)
    assert not any(verdict.better for verdict in ahead)


def test_pairing_sees_what_two_intervals_would_not() -> None:
    """Each image gets a little better; images differ from each other by far more than that."""
    images = 12
    true = [[1000, 0, 0]] * images
    theirs = [[int(share), 0, 0] for share in np.linspace(200, 900, images)]
    ours = [[one + 20, 0, 0] for [one, _, _] in theirs]
    verdict = judged(counts(ours, true, ours), counts(theirs, true, theirs))
    assert verdict.low > 0.019
    # the same nets, each with images of its own: shuffled, nothing can be said
    mixed = judged(counts(ours, true, ours), counts(theirs[::-1], true, theirs[::-1]))
    assert not mixed.better


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Of differences of 0, about 10 % lie outside of a 90 % interval."""
    outside = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        ours, theirs = (random.binomial(1000, 0.6, (25, 1)) for _ in range(2))
        rest = np.zeros((25, 2), np.int64)
        full = np.concatenate([np.full((25, 1), 1000), rest], 1)
        first, second = (
            np.stack([np.concatenate([hits, rest], 1), full, np.concatenate([hits, rest], 1)], 1)
            for hits in (ours, theirs)
        )
        verdict = judged(first, second, confidence=0.9)
        outside += not verdict.low <= 0 <= verdict.high
    assert 1 <= outside <= 15


def test_the_margin_is_asked_of_the_lower_end() -> None:
    better, worse = random_counts(40, 0.9, seed=1), random_counts(40, 0.7, seed=2)
    low = judged(better, worse).low
    assert judged(better, worse, margin=low - 0.001).better
    verdict = judged(better, worse, margin=low + 0.001)
    assert not verdict.better
    assert "not above" in verdict.in_words()


def test_a_class_that_is_lost_outweighs_the_mean() -> None:
    images, true = 10, [[100, 100, 100]] * 10
    theirs = [[50, 50, 50]] * images
    ours = [[95, 95, 40]] * images
    verdict = judged(counts(ours, true, ours), counts(theirs, true, theirs))
    assert verdict.low > 0.2
    assert verdict.worse == ("dog",)
    assert not verdict.better
    assert "dog" in verdict.in_words()
    assert judged(counts(ours, true, ours), counts(theirs, true, theirs), class_drop=0.2).better


def test_a_class_that_is_no_longer_predicted_is_lost() -> None:
    true = [[100, 100, 100]] * 4
    theirs = [[10, 10, 90]] * 4
    ours = [[99, 99, 0]] * 4
    verdict = judged(counts(ours, true, ours), counts(theirs, true, theirs))
    assert verdict.worse == ("dog",)


def test_the_same_twice() -> None:
    pair = random_counts(10, 0.8, seed=1), random_counts(10, 0.75, seed=2)
    assert judged(*pair) == judged(*pair)


@pytest.mark.parametrize("images", [0, 1])
def test_too_few_images_are_refused(images: int) -> None:
    few = random_counts(2, 0.8, seed=1)[:images]
    with pytest.raises(InputError, match=f"{images} image"):
        judged(few, few)
