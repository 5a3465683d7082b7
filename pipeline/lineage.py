"""Where a checkpoint comes from, link by link: archive, dataset, run, checkpoint, champion.

Each link is verified where it lies: bytes against the hash that others know them by, and what is
said of them against what the checkpoint says. What the store has no longer is said to be missing,
never verified.
"""

import tempfile
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from infra.failure import Cause, Failure
from infra.protocol import JobSpec, checkpoint_key, run_key
from infra.stores import Store
from model.checkpoint import MANIFEST, Description, parse_manifest
from model.manifest import Manifest
from model.recipe import Recipe
from pipeline.champion import Decision, History
from pipeline.data_lineage import archive_link, dataset_link
from pipeline.parameters import home
from pipeline.progress import Progress, silent
from pipeline.proofs import Lineage, Link, Proof
from pipeline.provenance import CheckpointFile
from pipeline.run_record import RunRecord, recorded_run
from pipeline.stages.extract import extracted_archives


def lineage(path: Path, store: Store, report: Progress = silent) -> Lineage:
    """Follow the checkpoint at `path` through the store, and verify all that is there.

    Raises InputError where the file is no checkpoint, Failure(STORE) where the store is away; what
    does not fit is part of what is returned.
    """
    file = CheckpointFile.read(path)
    made = file.description
    known = list(extracted_archives(store))
    record, run = _run_link(made, store)
    sources = record.sources if record else {}
    spool = home() / "spool"
    spool.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=spool) as folder:
        scratch = Path(folder)
        links = (
            *(archive_link(a, sources.get(a, ""), known, store, scratch) for a in made.archives),
            dataset_link(made, store, scratch, report),
            run,
            _checkpoint_link(file, store),
            _champion_link(file, store),
        )
    return Lineage(checkpoint=path, links=links)


def _run_link(made: Description, store: Store) -> tuple[RunRecord | None, Link]:
    """What the controller recorded, and what it ordered; both bear a seal."""
    record, said = None, ""
    try:
        record = recorded_run(store, made.run_id)
        inputs = record.inputs
        settings = made.recipe.decisive()
        recorded = Proof.of_agreement(
            "record",
            dataset=record.dataset == made.dataset_key,
            archives=not record.sources or {*record.sources} == {*made.archives},
            content=inputs is None or inputs.dataset == made.dataset_digest,
            recipe=inputs is None or inputs.recipe.items() <= settings.items(),
        )
        said = f"{record.state}, begun {record.started:%Y-%m-%d %H:%M} UTC"
        said += f", commit {record.commit}" if record.commit else ""
    except Failure as failure:
        if failure.cause not in (Cause.BAD_INPUT, Cause.CORRUPT):
            raise
        is_gone = failure.cause is Cause.BAD_INPUT
        recorded = Proof.missing("record") if is_gone else Proof.damaged("record", failure)
    link = Link(kind="run", name=made.run_id, said=said, proofs=(recorded, _order(made, store)))
    return record, link


def _order(made: Description, store: Store) -> Proof:
    """The job that was given to the machine which trained."""
    try:
        spec = store.read(run_key(made.run_id, "spec.json"), JobSpec)
        if spec is None:
            return Proof.missing("job")
        dataset = Manifest.model_validate_json(spec.files.get("dataset/manifest.json", ""))
        recipe = Recipe.model_validate_json(spec.files.get("recipe.json", ""))
    except Failure as failure:
        if failure.cause is not Cause.CORRUPT:
            raise
        return Proof.damaged("job", failure)
    except ValidationError:
        return Proof.damaged("job", ValueError("it is no training of this version"))
    return Proof.of_agreement(
        "job",
        run=spec.run_id == made.run_id,
        dataset=(dataset.key, dataset.digest) == (made.dataset_key, made.dataset_digest),
        recipe=recipe.decisive() == made.recipe.decisive(),
    )


def _checkpoint_link(file: CheckpointFile, store: Store) -> Link:
    """The file by the manifest that the run left in the store, the weights by their digest."""
    made = file.description
    data = store.get(checkpoint_key(made.run_id, made.step, MANIFEST))
    manifest = parse_manifest(data) if data else None
    proofs: tuple[Proof, ...]
    if manifest:
        said = {name: getattr(manifest, name) for name in Description.model_fields}
        proofs = (
            Proof.of_hash("file", file.sha256, manifest.sha256, "its manifest in the store"),
            Proof.of_hash(
                "weights", file.weights_digest, manifest.weights_digest, "its manifest in the store"
            ),
            Proof.of_agreement("manifest", description=said == dict(made)),
        )
    elif data is None:
        hashes = {"file": file.sha256, "weights": file.weights_digest}
        proofs = tuple(
            Proof(what=what, state="missing", said="its manifest is not in the store", hash=found)
            for what, found in hashes.items()
        )
    else:
        proofs = (Proof.damaged("manifest", ValueError("it is none of this version")),)
    return Link(kind="checkpoint", name=f"step {made.step}", said=str(file.path), proofs=proofs)


def _champion_link(file: CheckpointFile, store: Store) -> Link:
    """What was decided about it, and that the decisions mean these very bytes."""
    try:
        history = History.load(store)
    except Failure as failure:
        if failure.cause is not Cause.CORRUPT:
            raise
        return Link(kind="champion", name="unknown", proofs=(Proof.damaged("decisions", failure),))

    def is_about_it(one: Decision) -> bool:
        kept, made = one.checkpoint, file.description
        return (kept.run_id, kept.step) == (made.run_id, made.step)

    about = [one for one in history.decisions if is_about_it(one)]
    proofs = []
    for one in about:
        by, kept = f"decision {one.name}", one.checkpoint
        proofs += [
            Proof.of_hash("file", file.sha256, kept.sha256, by),
            Proof.of_hash("weights", file.weights_digest, kept.weights_digest, by),
        ]
    reigns = _reigns([(one, is_about_it(one)) for one in history.counting])
    if history.champion and is_about_it(history.champion):
        name = "now"
    else:
        name = "formerly" if reigns else "never"
    said = [*reigns, *(f"refused {one.time:%Y-%m-%d}" for one in about if one.kind == "refused")]
    return Link(kind="champion", name=name, said=", ".join(said), proofs=tuple(proofs))


def _reigns(counting: list[tuple[Decision, bool]]) -> list[str]:
    """From when to when it was champion, given which decisions are about it."""
    line: list[bool] = []
    since: datetime | None = None
    reigns = []
    for one, is_about_it in counting:
        if one.kind == "promoted":
            line.append(is_about_it)
        elif one.kind == "rolled-back":
            line.pop()
        reigning = bool(line) and line[-1]
        if reigning and since is None:
            since = one.time
        elif not reigning and since is not None:
            reigns.append(f"from {since:%Y-%m-%d %H:%M} to {one.time:%Y-%m-%d %H:%M} UTC")
            since = None
    if since:
        reigns.append(f"since {since:%Y-%m-%d %H:%M} UTC")
    return reigns
