"""What is read off a range test: suggestions on curves whose answer is known, and how sure."""

import numpy as np
import pytest
from numpy.typing import NDArray

from model.errors import TrainingError
from model.learning_rates import LearningRates
from model.lr_find import plot

Curve = NDArray[np.float64]


def test_the_suggestions_are_where_the_loss_falls_most_and_a_tenth_of_its_least() -> None:
    rates = np.geomspace(1e-6, 1, 121)
    place = np.log10(rates)
    losses = 2 - falling(place, -3, 8) + np.clip(place + 1, 0, None) * 5
    found = LearningRates.of(rates.tolist(), losses.tolist(), False)
    assert found.steepest == pytest.approx(1e-3, rel=0.2)
    # Three eighths of a decade before the loss grows, which is all that a line sees of it.
    assert 0.4 <= found.tenth_of_minimum / 1e-2 <= 1
    assert found.clear
    assert f"suggested: --set lr={found.steepest:.1e}" in found.in_words()


def falling(place: Curve, middle: float, steepness: float) -> Curve:
    """A logistic fall by 1, steepest at `middle` (of log10 of the rate)."""
    return 1 / (1 + np.exp(-steepness * (place - middle)))


PLACE = np.linspace(-7, 0, 100)
FLAT_THEN_FALL = 2 - falling(PLACE, -3, 3)
CURVES = {
    "flat, fall, flat": FLAT_THEN_FALL,
    "then it grows": FLAT_THEN_FALL + 2 * np.clip(PLACE + 1.5, 0, None) ** 2,
    "then it diverges": (FLAT_THEN_FALL + np.exp((PLACE + 1.6) * 8))[PLACE < -1],
    "a late dip": FLAT_THEN_FALL
    + falling(PLACE, -1.5, 10) / 2
    - 1.2 * np.exp(-(((PLACE + 0.5) / 0.25) ** 2)),
    "a late outlier": np.where(np.arange(100) == 95, -3, FLAT_THEN_FALL),
}


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("noise", [0.0, 0.05, 0.1])
def test_noise_a_late_dip_and_a_loss_that_grows_do_not_move_the_suggestion(
    name: str, noise: float
) -> None:
    curve = CURVES[name]
    rates = (10 ** PLACE[: len(curve)]).tolist()
    for seed in range(10):
        random = np.random.default_rng(seed).normal(0, noise, len(curve))
        found = LearningRates.of(rates, (curve + random).tolist(), name == "then it diverges")
        assert 1e-3 / 3 < found.steepest < 3e-3
        assert found.clear
        if name == "a late dip":  # which is not the first minimum
            assert found.tenth_of_minimum < 3e-3


def test_the_suggestion_is_at_most_a_third_of_the_rate_of_the_minimum() -> None:
    """Where the loss falls the faster the nearer it comes to its minimum."""
    place = np.linspace(-6, 0, 121)
    losses = np.where(place < -2, 2 - np.exp(3 * (place + 2)), 1 + 2 * (place + 2))
    for seed in range(10):
        noisy = losses + np.random.default_rng(seed).normal(0, 0.05, len(place))
        found = LearningRates.of((10**place).tolist(), noisy.tolist(), False)
        assert 1e-3 < found.steepest <= 10 * found.tenth_of_minimum / 3 < 0.01 / 3 * 1.1
        assert found.clear


@pytest.mark.parametrize("losses", ["noise", "growing", "falls within a third of a decade"])
def test_no_fall_worth_the_name_is_said_so(losses: str) -> None:
    place = np.linspace(-7, 0, 100)
    for seed in range(10):
        values = np.random.default_rng(seed).normal(1, 0.1, 100)
        if losses == "growing":
            values += place + 7
        if losses.startswith("falls"):
            place = np.linspace(-2, -1.7, 100)
            values -= np.linspace(0, 1, 100)
        found = LearningRates.of((10**place).tolist(), values.tolist(), False)
        assert not found.clear
        assert found.steepest <= 1.001 * 10 * found.tenth_of_minimum / 3
        words = found.in_words()
        assert "unsure" in words
        assert "more --steps, a larger --set batch_size" in words
        assert f"best guess is --set lr={found.steepest:.1e}" in words
        labels = [str(line.get_label()) for line in plot(found, "").axes[0].lines]
        assert f"unsure, best guess: {found.steepest:.1e}" in labels


def test_more_steps_make_a_fall_clear() -> None:
    def clear(steps: int) -> bool:
        place = np.linspace(-7, 0, steps)
        losses = 2 - falling(place, -3, 3) + np.random.default_rng(0).normal(0, 1.0, steps)
        return LearningRates.of((10**place).tolist(), losses.tolist(), False).clear

    assert (clear(40), clear(1000)) == (False, True)


def test_the_first_steps_suggest_nothing() -> None:
    rates = np.geomspace(1e-6, 1, 100)
    losses = [*np.linspace(9, 3, 9), *np.linspace(3, 2, 91)]
    assert LearningRates.of(rates.tolist(), losses, False).steepest > rates[9]


def test_too_few_losses() -> None:
    rates, losses = np.geomspace(1e-7, 1e-6, 10).tolist(), [1.0] * 10
    with pytest.raises(TrainingError, match=r"out of bounds after 10 .* says nothing.*--low"):
        LearningRates.of(rates, losses, True)
    with pytest.raises(TrainingError, match=r"Only 10 batches.*more --steps"):
        LearningRates.of(rates, losses, False)
    with pytest.raises(TrainingError, match="says nothing"):
        LearningRates.of([1e-7, 1e-6], [1.0, 1.0], True)
