"""Make a checkpoint again: from the same inputs, to the same weights digest.

What made it stands in the checkpoint itself, and in the record of its run: where the archives came
from and how they were read. All of it is compared with what is here before anything is trained.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.failure import Cause, Failure
from infra.protocol import checkpoint_key
from infra.stores import Store
from model import checkpoint
from model.checkpoint import Description
from model.device import pick_device, pick_precision
from model.errors import InputError, first_problem
from model.provenance import provenance
from model.recipe import Recipe
from model.recipes import named
from pipeline import preparation
from pipeline.parameters import Parameters, home
from pipeline.progress import Listener
from pipeline.provenance import (
    CheckpointFile,
    Compared,
    compare_archives,
    compare_computers,
    compare_recipes,
)
from pipeline.run import staged
from pipeline.run_record import Outcome, RunRecord, recorded_run

_OF_THE_RUN = (
    "archives", "layout", "recipe", "overrides", "classes", "max_side", "skip_missing", "limits"
)  # fmt: skip


@dataclass(frozen=True)
class Reproduction:
    """How a checkpoint would be made again, and how that differs from how it was made."""

    file: CheckpointFile
    parameters: Parameters | None  # None where it cannot be done
    compared: tuple[Compared, ...]
    is_the_best: bool  # of its run, as the record has it
    commit: str  # of the code that made it, where that is known

    def differences(self, *, hardware: bool) -> list[Compared]:
        """What is another here: of the hardware, or of all else."""
        return [one for one in self.compared if not one.same and one.hardware == hardware]

    def must_be_the_same(self, *, anyway: bool) -> Parameters:
        """What to run; InputError names what differs. `anyway` lets other hardware pass."""
        if different := self.differences(hardware=False):
            commit = f" (commit {self.commit})" if self.commit else ""
            raise InputError(
                f"This is not what made {self.file.path}: {_in_words(different)}. Bring back what "
                f"it was made with: that version of voc-train{commit} and of the libraries, and "
                "--archive, --layout, --max-side as they were."
            )
        if not anyway and (different := self.differences(hardware=True)):
            raise InputError(
                f"It was made on other hardware: {_in_words(different)}. Take that again, or say "
                "--anyway; the weights digest may differ then, as hardware rounds in its own way."
            )
        assert self.parameters
        return self.parameters


def _in_words(different: Sequence[Compared]) -> str:
    return "; ".join(one.in_words() for one in different)


def plan(
    path: Path, store: Store, typed: dict[str, Any], listeners: Sequence[Listener]
) -> Reproduction:
    """Compare what made the checkpoint at `path` with what is here; trains nothing.

    Archives are hashed, and the dataset is built where all else is the same, unless the store has
    them already. `typed` are parameters that count before those of the run's record.
    """
    file = CheckpointFile.read(path)
    made = file.description
    record = _record(store, made.run_id)
    known = _known(made, record) | typed
    recipe = named(known["recipe"]).override(known["overrides"])
    device = _device(made.provenance.device)
    here = provenance(pick_device(device), pick_precision(recipe.precision, pick_device(device)))
    compared = [
        *compare_computers(made.provenance, here),
        *compare_recipes(made.recipe, recipe),
        Compared(what="classes", made=",".join(made.classes), here=",".join(known["classes"])),
    ]
    parameters = None
    try:
        asked = _parameters(file, known, store, device)
        parameters = _with_its_data(asked, made, compared, store, listeners)
    except InputError as error:  # the rest is worth knowing all the same
        said = str(error).rstrip(".")
        compared.append(Compared(what="archives", made=",".join(made.archives), here=said))
    outcome = record.outcome if record else None
    return Reproduction(
        file=file,
        parameters=parameters,
        compared=tuple(compared),
        is_the_best=outcome is not None and outcome.weights_digest == file.weights_digest,
        commit=record.commit if record else "",
    )


def _with_its_data(
    asked: Parameters,
    made: Description,
    compared: list[Compared],
    store: Store,
    listeners: Sequence[Listener],
) -> Parameters:
    """Compare archives, and the dataset that is made of them; returns them pinned by hash."""
    spool, needed = home() / "spool", preparation.TO_TRAIN
    with staged("extract", listeners) as stage:
        archives = preparation.extract_archives(asked, store, spool, stage)
    compared += compare_archives(made.archives, [archive.sha256 for archive in archives])
    if all(one.same or one.hardware for one in compared):
        with staged("separate", listeners) as stage:
            pairs = preparation.separate_pairs(archives, asked, store, spool, stage, needed=needed)
        with staged("build-dataset", listeners) as stage:
            data = preparation.build_shards(
                pairs, archives, asked, store, spool, stage, needed=needed
            )
        compared.append(Compared(what="dataset digest", made=made.dataset_digest, here=data.digest))
        if made.recipe.stream_gb is not None:  # then the order depends on how photos lie in shards
            compared.append(Compared(what="shards of", made=made.dataset_key, here=data.key))
    pinned = [
        f"{url.partition('#sha256=')[0]}#sha256={archive.source_sha256}"
        for url, archive in zip(asked.archives, archives, strict=True)
    ]
    return asked.model_copy(update={"archives": tuple(pinned)})


def _record(store: Store, run_id: str) -> RunRecord | None:
    """The record of a run, or None where the store has it no more."""
    try:
        return recorded_run(store, run_id)
    except Failure as failure:
        if failure.cause is not Cause.BAD_INPUT:
            raise
        return None


def _known(made: Description, record: RunRecord | None) -> dict[str, Any]:
    """What to run, as the record of the run has it, or else as the checkpoint has it."""
    known = {
        "recipe": made.recipe.name,
        "overrides": _overrides(made.recipe),
        "classes": made.classes,
        "max_side": made.max_side,
    }
    recorded = record.parameters if record else {}
    return known | {name: recorded[name] for name in _OF_THE_RUN if recorded.get(name) is not None}


def _parameters(
    file: CheckpointFile,
    known: Mapping[str, Any],
    store: Store,
    device: Literal["auto", "cpu", "cuda", "mps"],
) -> Parameters:
    """InputError where nobody knows the archives, or what is known makes no run."""
    if not known.get("archives"):
        raise InputError(
            f"unknown, as {store.url} has no record of run {file.description.run_id}: name them "
            "with --archive, and --layout and --skip-missing as they were, or another --store."
        )
    try:
        return Parameters.model_validate(
            {
                **known,
                "overrides": known["overrides"] | {"min_miou": None},  # it decides no weights
                "store": store.url,
                "device": device,
                "threads": file.description.provenance.threads,
                "ranks": file.description.provenance.ranks,
                "keep_step": file.description.step,
                "wandb": "disabled",
            }
        )
    except ValidationError as error:
        raise InputError("{}: {}".format(*first_problem(error))) from None


def _device(made: str) -> Literal["auto", "cpu", "cuda", "mps"]:
    """Of the kind that the checkpoint was made on; where there is none, the best there is."""
    kind: Literal["cpu", "cuda", "mps"] = (
        "cpu" if made == "cpu" else "mps" if made == "mps" else "cuda"
    )
    try:
        pick_device(kind)
    except InputError:
        return "auto"
    return kind


def _overrides(recipe: Recipe) -> dict[str, Any]:
    """What a recipe sets otherwise than the one of its name."""
    own = named(recipe.name)
    return {
        name: getattr(recipe, name)
        for name in Recipe.model_fields
        if name not in ("name", "summary") and getattr(recipe, name) != getattr(own, name)
    }


class Reproduced(BaseModel):
    """That the same weights were made again; `--json` prints it."""

    model_config = ConfigDict(frozen=True)

    checkpoint: Path  # that was to be made again
    step: int
    weights_digest: str
    run_id: str  # which made it again
    compared: tuple[Compared, ...]


def must_have_come_out(planned: Reproduction, outcome: Outcome, store: Store) -> Reproduced:
    """Hold what the run of `planned` made at the checkpoint's step against the checkpoint.

    Raises Failure(NOT_REPRODUCED) with both digests where it is another, or not the best of its run
    though the checkpoint was.
    """
    file, step = planned.file, planned.file.description.step
    digest = _digest_at(store, outcome.run_id, step)
    other = planned.differences(hardware=True)
    why = (
        f"{_in_words(other)}, which rounds in its own way"
        if other
        else "the file is not what it says, or its device does not compute the same twice"
    )
    if digest != file.weights_digest:
        raise Failure(
            Cause.NOT_REPRODUCED,
            f"Made again, the weights of step {step} have the digest {digest} instead of "
            f"{file.weights_digest}: {why}. `voc-train lineage {file.path}` verifies the file.",
        )
    if planned.is_the_best and outcome.weights_digest != digest:
        raise Failure(
            Cause.NOT_REPRODUCED,
            f"The weights of step {step} came out the same, {digest}, but the best of the run are "
            f"now others, {outcome.weights_digest}: {why}.",
        )
    return Reproduced(
        checkpoint=file.path,
        step=step,
        weights_digest=digest,
        run_id=outcome.run_id,
        compared=planned.compared,
    )


def _digest_at(store: Store, run_id: str, step: int) -> str:
    """Recomputed from the weights that a run kept of a step; Failure(CORRUPT) without any."""
    prefix = checkpoint_key(run_id, step)
    with tempfile.TemporaryDirectory() as arriving:
        folder = Path(arriving)
        for name in (checkpoint.BLOB, checkpoint.MANIFEST):
            store.get_file(f"{prefix}/{name}", folder / name)
        if not checkpoint.verified(folder):
            raise Failure(Cause.CORRUPT, f"{prefix} in {store.url} is damaged; run it again.")
        return CheckpointFile.read(folder / checkpoint.BLOB).weights_digest
