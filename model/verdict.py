"""What a comparison of two nets comes to."""

from pydantic import BaseModel, ConfigDict


class Verdict(BaseModel):
    """What the comparison of a challenger with a champion says; scores are IoUs."""

    model_config = ConfigDict(frozen=True)

    images: int
    challenger: float  # mIoU
    champion: float
    low: float  # of the interval of challenger less champion
    high: float
    confidence: float
    margin: float  # that the interval's lower end must exceed
    by_class: dict[str, tuple[float | None, float | None]]  # IoU of challenger, of champion
    worse: tuple[str, ...]  # classes that lose more than they may

    @property
    def difference(self) -> float:
        """mIoU of the challenger less that of the champion."""
        return self.challenger - self.champion

    @property
    def better(self) -> bool:
        """Whether the challenger is to be promoted."""
        return self.low > self.margin and not self.worse

    def in_words(self, champion: str = "the champion") -> str:
        """A sentence for people, in which the champion is called so."""
        said = (
            f"mIoU {self.challenger:.4f} against {self.champion:.4f} of {champion} on "
            f"{self.images:,} images: "
            f"{self.difference:+.4f}, {100 * self.confidence:g} % interval {self.low:+.4f} to "
            f"{self.high:+.4f}"
        )
        if self.low <= self.margin:
            said += f", which is not above {self.margin:g}"
        if self.worse:
            said += f"; these classes lose more than they may: {', '.join(self.worse)}"
        return said
