"""What a learning-rate range test says: how the loss goes with the rate, and what rate to take."""

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from model.errors import TrainingError

# Decades around a step that say how high the loss is, and how steep. Slopes are the noisier of the
# two, and a valley narrower than a decade is not to be filled.
_HEIGHT, _SLOPE = 0.75, 1.5
_NARROWEST = 9  # steps, where those decades have fewer
_BOUND = 3  # times the suggestion is at most the rate of the minimum
_CLEAR = 6  # standard errors of the smoothed loss that a fall has at least


class LearningRates(BaseModel):
    """A range test: the loss at each rate, in the order of the steps, and what follows."""

    model_config = ConfigDict(frozen=True)

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    steepest: float  # the suggestion
    tenth_of_minimum: float
    clear: bool  # whether the fall of the loss stands out from its noise
    diverged: bool  # whether the loss grew so much that the test ended early

    @classmethod
    def of(cls, rates: list[float], losses: list[float], diverged: bool) -> "LearningRates":
        """Read the suggestions off the losses. Raises TrainingError when there are too few."""
        if len(losses) < _NARROWEST + 2:
            said = (
                f"The loss was out of bounds after {len(losses)} steps, so it says nothing about "
                "rates; begin with a lower one (--low), or use --set precision=fp32."
                if diverged
                else f"Only {len(losses)} batches had a pixel to learn from, too few to say "
                "anything about rates; take more --steps."
            )
            raise TrainingError("USER_ERROR", said)
        places, values = np.log(rates), np.array(losses)
        smooth, _, width = local_lines(places, values, _HEIGHT)
        _, slopes, wide = local_lines(places, values, _SLOPE)
        # From one loss to the next, noise changes it and hardly anything else (Rice 1984); its
        # standard deviation by the median, as an outlier is no noise (1.4826: of a Gaussian's).
        noise = 1.4826 * float(np.median(np.abs(np.diff(values)))) / math.sqrt(2)
        error = noise / math.sqrt(width)
        begin = wide // 2  # the loss may fall at first whatever the rate, and lines have one side
        least = begin + first_minimum(smooth[begin:])
        bound = rates[least] / _BOUND
        below = max(begin + 1, int(np.searchsorted(rates, bound, side="right")))
        steepest = begin + int(np.argmin(slopes[begin:below]))
        return cls(
            rates=tuple(rates),
            losses=tuple(losses),
            smoothed=tuple(smooth.tolist()),
            steepest=min(rates[steepest], bound),
            tenth_of_minimum=rates[least] / 10,
            clear=rates[begin] <= bound and bool(smooth[begin] - smooth[least] > _CLEAR * error),
            diverged=diverged,
        )

    def in_words(self) -> str:
        """What to do with it, for a person."""
        tried = f"{len(self.rates)} steps, rates {self.rates[0]:.1e} to {self.rates[-1]:.1e}"
        ended = ", until the loss grew" if self.diverged else ""
        least = f"{self.tenth_of_minimum:.1e} is a tenth of the rate of the first minimum"
        if self.clear:
            said = f"suggested: --set lr={self.steepest:.1e} (steepest descent); {least}"
        else:
            said = (
                "unsure: no fall of the loss stands out from its noise; try more --steps, a larger "
                "--set batch_size=…, or other rates (--low, --high)\n"
                f"the best guess is --set lr={self.steepest:.1e}; {least}"
            )
        return f"{said}\n{tried}{ended}"


def local_lines(
    places: NDArray[np.float64], losses: NDArray[np.float64], decades: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Least-squares lines through the losses around each: their values there, slopes, and width.

    `places` are the rates' natural logarithms, `decades` is how much of them a line covers; its
    width in steps is odd, at least 9 and else at most a quarter of all. Unlike an average of past
    losses, a line does not lag. Each loss is first replaced by the median of the five around it, so
    that a single odd batch tilts nothing. The arrays are float64 [steps].
    """
    covered = decades * math.log(10) / (places[-1] - places[0])
    width = max(_NARROWEST, int(min(covered, 0.25) * len(losses)) | 1)
    losses = np.median(sliding_window_view(np.pad(losses, 2, mode="reflect"), 5), axis=1)
    x, y = (sliding_window_view(values, width) for values in (places, losses))
    centres, means = x.mean(axis=1), y.mean(axis=1)
    apart = x - centres[:, None]
    slopes = (apart * y).sum(axis=1) / (apart**2).sum(axis=1)
    # At either end, the line through the last `width` losses goes on.
    line = np.clip(np.arange(len(losses)) - width // 2, 0, len(losses) - width)
    return means[line] + slopes[line] * (places - centres[line]), slopes[line], width


def first_minimum(smooth: NDArray[np.float64]) -> int:
    """The step of the first broad minimum: no dip that comes later, however deep it happens to be.

    It has half of the whole fall before it, and the loss climbs by a fifth of it afterwards.
    """
    fall = smooth[0] - smooth.min()
    least = 0
    for step, loss in enumerate(smooth):
        if loss < smooth[least]:
            least = step
        if smooth[0] - smooth[least] > fall / 2 and loss - smooth[least] > fall / 5:
            break
    return least
