"""A figure beside its baseline: both measured in turns, in one run, and told as a ratio.

A computer that is busy slows both; what counts is the ratio of each pair, and their spread.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["times as fast", "of the time", "seconds over"]
LEAST_PAIRS = 5


@dataclass(frozen=True)
class Row:
    """Two ways to do the same work, and what is wanted of ours.

    `ours` and `baseline` do it once and return nothing, or the seconds that count of it.
    `target` is the least for `times as fast`, and the most for the others. `if_missed` says why
    it is not met, and how far the floor is, as far as that is known; `besides` what else there is
    to say. Both are asked afterwards.
    """

    what: str
    against: str
    kind: Kind
    target: float
    ours: Callable[[], object]
    baseline: Callable[[], object]
    pairs: int = LEAST_PAIRS
    if_missed: Callable[[], str] = lambda: ""
    besides: Callable[[], str] = lambda: ""


@dataclass(frozen=True)
class NotMeasured:
    """A row that this computer cannot fill, and why; it counts as neither met nor missed."""

    what: str
    against: str
    target: str
    why: str


@dataclass(frozen=True)
class Measured:
    """What came of a row: medians of seconds, and of the pairs' figure with its quartiles.

    `said` is what the row has to say of it. It does not keep the row: processes may hang on it.
    """

    what: str
    against: str
    kind: Kind
    target: float
    ours: float
    baseline: float
    figure: float
    low: float
    high: float
    said: str = ""

    @property
    def met(self) -> bool:
        """Whether the target is reached by the median."""
        if self.kind == "times as fast":
            return self.figure >= self.target
        return self.figure <= self.target


def measured(row: Row, pairs: int | None = None) -> Measured:
    """Measure a row: once each to warm up, then in pairs, whose first is now one, now the other."""
    _seconds(row.ours)
    _seconds(row.baseline)
    ours, baseline = [], []
    for number in range(max(LEAST_PAIRS, pairs or row.pairs)):
        if number % 2:
            baseline.append(_seconds(row.baseline))
            ours.append(_seconds(row.ours))
        else:
            ours.append(_seconds(row.ours))
            baseline.append(_seconds(row.baseline))
    figures = [_figure(row.kind, *pair) for pair in zip(ours, baseline, strict=True)]
    low, middle, high = statistics.quantiles(figures, n=4)
    named = row.what, row.against, row.kind, row.target
    done = Measured(*named, statistics.median(ours), statistics.median(baseline), middle, low, high)
    said = [row.besides(), "" if done.met else row.if_missed()]
    return replace(done, said=" ".join(filter(None, said)))


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    said = work()
    return said if isinstance(said, float) else time.perf_counter() - began


def _figure(kind: Kind, ours: float, baseline: float) -> float:
    match kind:
        case "times as fast":
            return baseline / ours
        case "of the time":
            return ours / baseline
        case "seconds over":
            return ours - baseline
