"""Who is champion: what follows from the decisions in the store.

Every decision is one object, `champions/<number>-<run>-<letters>.json`, written once and never
changed. Its number is one more than the highest that its writer saw, so that no clock has to be
right. The champion is a fold over the listing: a promotion puts a checkpoint on top, a roll-back
takes it off again. Either counts only over the champion that it was decided against. So of two that
are decided at once one counts, everybody sees the same one, and the other is still there to read.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from infra.claims import Hold
from infra.concurrently import concurrently
from infra.failure import Cause, Failure
from infra.protocol import checkpoint_key, now
from infra.stores import Store
from model.errors import InputError
from model.verdict import Verdict
from pipeline.inputs import Inputs
from pipeline.run import letters
from pipeline.run_record import recorded_run

if TYPE_CHECKING:
    from model.checkpoint import CheckpointManifest

_FOLDER = "champions"
# Seconds, beside twice those of the reading itself, in which whoever has read the history before a
# decision has written one of its own: after that it is known which of two counts (as in Fischer's
# mutual exclusion).
_SETTLED = 2.0

Kind = Literal["promoted", "refused", "rolled-back"]


class Checkpoint(BaseModel):
    """A verified checkpoint in the store."""

    model_config = ConfigDict(frozen=True)

    run_id: str = Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")
    step: int = Field(ge=0)
    key: str  # of its folder
    size: int  # bytes of its blob
    sha256: str
    weights_digest: str
    miou: float  # on its own validation set
    classes: tuple[str, ...]
    dataset_key: str = Field(pattern=r"^[A-Za-z0-9_-]{1,80}$")
    dataset_digest: str

    @model_validator(mode="after")
    def _of_its_run(self) -> Self:
        if self.key != checkpoint_key(self.run_id, self.step):
            raise ValueError(f"{self.key} is no checkpoint of run {self.run_id}")
        return self


class Decision(BaseModel):
    """About a challenger; of a roll-back, about the champion that it takes off."""

    model_config = ConfigDict(frozen=True)

    name: str  # of its object, without the folder and the suffix
    number: int = Field(ge=1, lt=1_000_000)  # as many digits as its name has for it
    kind: Kind
    time: datetime
    by_hand: bool = False
    over: str | None  # name of the promotion that had made the champion; None: there was none
    checkpoint: Checkpoint
    inputs: Inputs | None = None
    verdict: Verdict | None = None  # None by hand
    gates: dict[str, float | None] = {}  # what the recipe asked of it
    said: str  # why, in a sentence

    @property
    def over_run(self) -> str | None:
        """The run whose checkpoint was champion when it was made, as the name of `over` has it."""
        return self.over and self.over.partition("-")[2].rpartition("-")[0]


class History:
    """All decisions of a store, in their order, and what follows from them."""

    def __init__(self, decisions: Iterable[Decision], asked: float | None = None) -> None:
        """`asked` is when the store was, by this process's monotonic clock; None: now."""
        self.asked = time.monotonic() if asked is None else asked
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
        asked = time.monotonic()
        keys = [entry.key for entry in store.list(_FOLDER) if entry.key.endswith(".json")]
        found = concurrently(lambda key: _read(store, key), keys)
        return cls((one for one in found if one), asked)

    @property
    def champion(self) -> Decision | None:
        """The promotion that made the present champion."""
        return self.line[-1] if self.line else None

    def standing(self, run_id: str) -> str:
        """What has become of a run's checkpoint, in words; nothing where nobody decided."""
        if self.champion and self.champion.checkpoint.run_id == run_id:
            return "champion"
        if run_id in {one.checkpoint.run_id for one in self.line}:
            return "champion before"
        kinds = [one.kind for one in self.counting if one.checkpoint.run_id == run_id]
        return kinds[-1] if kinds else ""

    def decided(self, inputs: Inputs) -> Decision | None:
        """The latest decision that counts about a checkpoint made from just these inputs."""
        same = [one for one in self.counting if one.inputs == inputs]
        return same[-1] if same else None


def _read(store: Store, key: str) -> Decision | None:
    one = store.read(key, Decision)
    if one and key != f"{_FOLDER}/{one.name}.json":
        raise Failure(
            Cause.CORRUPT,
            f"{key} in {store.url} is not what it is called: it says that it is {one.name[:80]!r}. "
            "Delete it there, or put it back under its own name.",
        )
    return one


def _counts(one: Decision, champion: Decision | None) -> bool:
    """Whether a decision changes anything, or would have: who was champion when it was made."""
    if one.kind == "promoted" and one.by_hand:
        return True
    if champion is None:
        return one.over is None and one.kind != "rolled-back"
    return one.over == champion.name


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
    gates: Mapping[str, float | None] = {},
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
        gates=dict(gates),
        said=said,
    )
    store.write(f"{_FOLDER}/{name}.json", decision)
    if kind == "rolled-back" or (kind == "promoted" and not by_hand):  # what another can displace
        time.sleep(_SETTLED + 2 * (time.monotonic() - history.asked))
    return decision, History.load(store)


def reference(manifest: "CheckpointManifest") -> Checkpoint:
    """Where a checkpoint lies in the store of its run, and what it has to hash to."""
    return Checkpoint(
        run_id=manifest.run_id,
        step=manifest.step,
        key=checkpoint_key(manifest.run_id, manifest.step),
        size=manifest.size,
        sha256=manifest.sha256,
        weights_digest=manifest.weights_digest,
        miou=manifest.miou or 0.0,
        classes=manifest.classes,
        dataset_key=manifest.dataset_key,
        dataset_digest=manifest.dataset_digest,
    )


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


def promote_by_hand(
    store: Store, run_id: str, folder: Path, say: Callable[[str], None] = print
) -> History:
    """Make the best checkpoint of a run champion; it is brought to `folder` and verified first.

    Raises InputError where it is champion, Failure(BAD_INPUT) where there is none of that run,
    Failure(CORRUPT) where none verifies, Failure(CLAIMED) while somebody drives or deletes it.
    """
    from pipeline.stages.fetch_checkpoint import fetch_checkpoint

    inputs = recorded_run(store, run_id).inputs
    with Hold(store, run_id, say=say):
        checkpoint = reference(fetch_checkpoint(run_id, store, folder))
        history = History.load(store)  # bringing it has taken its time
        if history.champion and history.champion.checkpoint == checkpoint:
            raise InputError(f"Run {run_id} is champion already.")
        return decide(
            store, history, "promoted", checkpoint, "by hand", by_hand=True, inputs=inputs
        )[1]


def roll_back(store: Store) -> History:
    """Take the champion off; who it came after is champion again.

    Raises InputError where it came after nobody, Failure(CORRUPT) where that one's checkpoint is
    missing, Failure(CLAIMED) where somebody else was made champion in this moment.
    """
    history = History.load(store)
    if len(history.line) < 2:
        there = "There is no champion" if not history.line else "The champion came after nobody"
        raise InputError(f"{there}: there is nobody to go back to. See `voc-train champion`.")
    earlier = history.line[-2]
    must_be_there(store, earlier)
    taken_off = history.line[-1].checkpoint
    decision, after = decide(
        store,
        history,
        "rolled-back",
        taken_off,
        f"by hand, to run {earlier.checkpoint.run_id}",
        by_hand=True,
        inputs=history.line[-1].inputs,
    )
    if decision not in after.counting:
        raise Failure(
            Cause.CLAIMED,
            "Somebody else changed the champion in this moment; look at `voc-train champion`, and "
            "roll back again if that is still wanted.",
        )
    return after
