"""Decide: hold a run's checkpoint against the champion, and promote it only if it is better.

Both are scored on the new dataset's validation photos, less those that the champion was trained on.
What could not be decided in the end is refused before anything is trained or rented.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from infra.failure import Cause, Failure
from infra.integrity import hashes_to
from infra.stores import Store
from model.counted import counted
from model.dataset import Dataset
from model.errors import InputError
from model.manifest import Manifest, Sample, read_index
from model.recipe import GATES, Recipe
from pipeline.champion import (
    Checkpoint,
    Decision,
    History,
    decide,
    must_be_there,
    reference,
)
from pipeline.dataset import dataset_prefix
from pipeline.inputs import Inputs
from pipeline.parameters import Parameters
from pipeline.pictures import Picture
from pipeline.progress import Progress, silent
from pipeline.run_record import RunRecord, recorded_runs

if TYPE_CHECKING:
    from model.checkpoint import CheckpointManifest
    from model.compare import Comparison

# Causes of a failure that the same training has again, be it on another machine.
_AGAIN = {Cause.USER_ERROR, Cause.OUT_OF_MEMORY, Cause.DEADLINE}
# Terms of a rental that a resume may change, and that change nothing of what it is for.
_BY_THE_WAY = ("budget", "ssh_from", "reaper", "keep")
_FEWEST = 2  # images, of which a bootstrap can draw others


class Rival(NamedTuple):
    """Whom a challenger is held against: the champion, or a net that sees only background."""

    history: History
    path: Path | None  # of the champion's verified checkpoint on this computer
    only: frozenset[str] | None  # ids of the photos that count, None for all


class Settled(NamedTuple):
    """What came of it, and whether it counts; without a comparison it was decided earlier."""

    decision: Decision
    comparison: "Comparison | None"

    def pictures(self, val: Dataset) -> list[Picture]:
        """Photos of the validation split on which the two nets disagree most."""
        disputes = self.comparison.disputes if self.comparison else ()
        return [
            Picture(*val[one.position], one.challenger, champion=one.champion) for one in disputes
        ]


def must_be_comparable(store: Store, classes: tuple[str, ...]) -> None:
    """Refuse, while nothing has been done yet, what can never be held against the champion.

    Raises InputError for other classes, Failure(CORRUPT) where the champion's file is missing.
    """
    champion = History.load(store).champion
    if champion is None:
        return
    known = champion.checkpoint.classes
    if known != classes:
        raise InputError(
            f"The champion of {store.url} knows the classes {', '.join(known)}, not "
            f"{', '.join(classes)}: the two cannot be compared. Give this task a store of its own "
            "(--store, another prefix will do)."
        )
    must_be_there(store, champion)


def decided_earlier(store: Store, inputs: Inputs, recipe: Recipe) -> Decision | None:
    """The decision that makes a training from these inputs needless; None where it may tell more.

    A training from the same inputs gives the same checkpoint. One that was refused is worth another
    look only where somebody else is champion now, or `recipe` asks for something else.
    """
    history = History.load(store)
    known = history.decided(inputs)
    if known and known.kind == "refused":
        champion = history.champion.name if history.champion else None
        same = known.over == champion and known.gates == gates_of(recipe)
        return known if same else None
    return known


def must_not_fail_again(store: Store, run_id: str, inputs: Inputs, parameters: Parameters) -> None:
    """Raise the Failure of an earlier run that would be this one's, too, and be paid once more.

    Such a run had the same inputs and the same parameters, and no less of a budget; and no later
    one of those ended in another way. Refusals count with what they refused, so the first run is
    the one that is named.
    """
    asked, budget = _terms(parameters.model_dump(mode="json"))
    first: RunRecord | None = None
    for one in recorded_runs(store):  # newest first
        terms, dollars = _terms(one.parameters)
        if one.run_id == run_id or one.inputs != inputs or terms != asked or dollars < budget:
            continue
        if one.state != "failed" or one.cause not in _AGAIN:
            break
        first = one
    if first and first.cause:
        raise Failure(
            first.cause,
            f"Run {first.run_id} of {first.started:%Y-%m-%d} failed, and since nothing has changed "
            "it is not tried again: change what it complains of, or --force. It said: "
            f"{first.message}",
        )


def _terms(parameters: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """What of recorded parameters says how a training ends, and the budget."""
    rental = parameters.get("rental") or {}
    how = {key: value for key, value in parameters.items() if key not in ("force", "store")}
    how["rental"] = {key: rental[key] for key in rental.keys() - {*_BY_THE_WAY}}
    return how, rental.get("budget") or 0.0


def gates_of(recipe: Recipe) -> dict[str, float | None]:
    """What a recipe asks of its checkpoint."""
    return recipe.model_dump(include={*GATES})


def rival(store: Store, dataset: Manifest, folder: Path) -> Rival:
    """Whom a net for `dataset` has to beat, its checkpoint brought to `folder` and found good.

    Raises Failure(CORRUPT) for a champion that is missing or damaged, InputError where this code
    cannot run it, or where too few photos are left that both may be scored on.
    """
    history = History.load(store)
    if history.champion is None:
        if dataset.counts.get("val", 0) < _FEWEST:
            raise _too_few(dataset.counts.get("val", 0), "")
        return Rival(history, None, None)
    champion = history.champion.checkpoint
    must_be_there(store, history.champion)
    path = folder / champion.sha256 / "checkpoint.pt"
    if not hashes_to(path, champion.sha256):
        try:
            store.get_file(f"{champion.key}/checkpoint.pt", path, sha256=champion.sha256)
        except Failure as failure:
            if failure.cause is not Cause.CORRUPT:
                raise
            raise Failure(
                Cause.CORRUPT,
                f"The champion's checkpoint {champion.key}/checkpoint.pt in {store.url} is "
                "damaged: it has not the sha256 that it was promoted with. Put it back, or name "
                "another champion: `voc-train rollback`, or `voc-train promote RUN`.",
            ) from None
    from model.inference import Predictor

    Predictor.load(path, "cpu")
    return Rival(history, path, _common(store, dataset, champion))


def settle(
    store: Store,
    dataset: Manifest,
    folder: Path,
    manifest: "CheckpointManifest",
    checkpoint: Path,
    inputs: Inputs,
    champions: Path,
    *,
    passes: bool,
    device: str = "auto",
    report: Progress = silent,
) -> Settled:
    """Compare the checkpoint with the champion, and write down what follows; it counts then.

    Args:
        folder: the dataset on this computer.
        champions: where checkpoints of champions lie on this computer.
        passes: whether it has passed the recipe's own gate; what has not is never promoted.
    """
    from model.compare import compare

    challenger = reference(manifest)
    while True:
        against = rival(store, dataset, champions)
        if mine := _mine(against.history, challenger):
            return Settled(mine, None)
        comparison = compare(
            checkpoint,
            against.path,
            Dataset(folder, "val"),
            manifest.recipe,
            only=against.only,
            device=device,
            report=report,
        )
        verdict = comparison.verdict
        better = verdict.better and passes
        held = against.history.champion
        whom = f"run {held.checkpoint.run_id}" if held else "a net that sees only background"
        said = verdict.in_words(whom) + ("" if passes else "; below the recipe's gate min_miou")
        present = History.load(store)  # a comparison takes minutes
        if present.champion != against.history.champion:
            continue
        decision, after = decide(
            store,
            present,
            "promoted" if better else "refused",
            challenger,
            said,
            inputs=inputs,
            verdict=verdict,
            gates=gates_of(manifest.recipe),
        )
        if not better or decision in after.counting:
            return Settled(decision, comparison)
        # Another was promoted in this moment, over the same champion: it is the one to beat now.


def _mine(history: History, challenger: Checkpoint) -> Decision | None:
    """What was decided about this very checkpoint before a resume, if that counted."""
    mine = [one for one in history.counting if one.checkpoint == challenger and not one.by_hand]
    return mine[-1] if mine else None


def _common(store: Store, dataset: Manifest, champion: Checkpoint) -> frozenset[str] | None:
    """Ids of the validation photos that the champion was not trained on; None for all of them."""
    if champion.dataset_digest == dataset.digest:
        return None
    known = _samples(store, champion.dataset_key)
    if known is None:
        raise Failure(
            Cause.CORRUPT,
            f"{dataset_prefix(champion.dataset_key)} is no longer in {store.url}: nobody knows "
            "which photos the champion was trained on, so none can be compared with it fairly. Put "
            "its index.jsonl back, or promote a run of the present data: `voc-train promote RUN`.",
        )
    trained_on = {sample.id for sample in known if sample.split == "train"}
    samples = _samples(store, dataset.key) or ()
    ids = frozenset(one.id for one in samples if one.split == "val" and one.id not in trained_on)
    if len(ids) < _FEWEST:
        raise _too_few(len(ids), " that the champion was not trained on")
    return ids


def _samples(store: Store, dataset_key: str) -> Iterator[Sample] | None:
    data = store.get(f"{dataset_prefix(dataset_key)}/index.jsonl")
    return None if data is None else read_index(data.decode().splitlines())


def _too_few(count: int, which: str) -> InputError:
    return InputError(
        f"The validation split has {counted(count, 'photo')}{which}; at least {_FEWEST} are "
        "needed to tell which of two nets is better. Keep the split of the champion's data, or "
        "promote by hand: `voc-train promote RUN`."
    )
