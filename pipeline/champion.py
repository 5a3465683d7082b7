"""Who is champion: what follows from the decisions in the store.

Every decision is one object, `champions/<number>-<run>-<letters>.json`, written once and never
changed. Its number is one more than the highest that its writer saw, so that no clock has to be
right. The champion is a fold over the listing: a promotion puts a checkpoint on top, a roll-back
takes it off again. Either counts only over the champion that it was decided against. So of two that
are decided at once one counts, everybody sees the same one, and the other is still there to read.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from infra.failure import Cause, Failure
from infra.protocol import now
from infra.stores import Store
from model.bootstrap import Verdict
from pipeline.inputs import Inputs
from pipeline.run import letters

_FOLDER = "champions"

Kind = Literal["promoted", "refused", "rolled-back"]


class Checkpoint(BaseModel):
    """A verified checkpoint in the store."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    step: int
    key: str  # of its folder
    size: int  # bytes of its blob
    sha256: str
    weights_digest: str
    miou: float  # on its own validation set
    classes: tuple[str, ...]
    dataset_key: str
    dataset_digest: str


class Decision(BaseModel):
    """About a challenger; of a roll-back, about the champion that it takes off."""

    model_config = ConfigDict(frozen=True)

    name: str  # of its object, without the folder and the suffix
    number: int = Field(ge=1)
    kind: Kind
    time: datetime
    by_hand: bool = False
    over: str | None  # name of the promotion that had made the champion; None: there was none
    checkpoint: Checkpoint
    inputs: Inputs | None = None
    verdict: Verdict | None = None  # None by hand
    said: str  # why, in a sentence


class History:
    """All decisions of a store, in their order, and what follows from them."""

    def __init__(self, decisions: Iterable[Decision]) -> None:
        self.decisions = tuple(sorted(decisions, key=lambda one: (one.number, one.name)))
        line: list[Decision] = []
        counting = []
        for one in self.decisions:
            if _counts(one, line[-1] if line else None):
                counting.append(one)
                if one.kind == "promoted":
                    line.append(one)
                elif one.kind == "rolled-back":
                    line.pop()
        self.counting = tuple(counting)  # those that did what they say
        self.line = tuple(line)  # promotions: the champion last, before it those it came after

    @classmethod
    def load(cls, store: Store) -> "History":
        """Read all decisions; Failure(CORRUPT) names one that is damaged."""
        found = (store.read(entry.key, Decision) for entry in store.list(_FOLDER))
        return cls(one for one in found if one)

    @property
    def champion(self) -> Decision | None:
        """The promotion that made the present champion."""
        return self.line[-1] if self.line else None

    def decided(self, inputs: Inputs) -> Decision | None:
        """The latest decision about a checkpoint that was made from just these inputs."""
        same = [one for one in self.decisions if one.inputs == inputs]
        return same[-1] if same else None


def _counts(one: Decision, champion: Decision | None) -> bool:
    """Whether a decision changes anything, or would have: who was champion when it was made."""
    return one.over == (champion.name if champion else None) or (
        one.by_hand and one.kind == "promoted"
    )


def decide(
    store: Store,
    history: History,
    kind: Kind,
    checkpoint: Checkpoint,
    said: str,
    *,
    by_hand: bool = False,
    inputs: Inputs | None = None,
    verdict: Verdict | None = None,
) -> tuple[Decision, History]:
    """Write a decision that was made in view of `history`; returns it and the history with it.

    Where the champion has changed meanwhile it does not count: it is not in `counting` then.
    """
    number = 1 + max((one.number for one in history.decisions), default=0)
    name = f"{number:06d}-{checkpoint.run_id}-{letters(5)}"
    decision = Decision(
        name=name,
        number=number,
        kind=kind,
        time=now(),
        by_hand=by_hand,
        over=history.champion.name if history.champion else None,
        checkpoint=checkpoint,
        inputs=inputs,
        verdict=verdict,
        said=said,
    )
    store.write(f"{_FOLDER}/{name}.json", decision)
    return decision, History.load(store)


def must_be_there(store: Store, champion: Decision) -> None:
    """Raise Failure(CORRUPT) where the champion's checkpoint is missing, or not as it was."""
    kept = champion.checkpoint
    blob = f"{kept.key}/checkpoint.pt"
    size = store.size(blob)
    if size != kept.size:
        what = "is missing" if size is None else f"has {size:,} bytes instead of {kept.size:,}"
        raise Failure(
            Cause.CORRUPT,
            f"The champion's checkpoint {blob} in {store.url} {what}. Put it back, or name another "
            "champion: `voc-train rollback`, or `voc-train promote RUN`.",
        )
