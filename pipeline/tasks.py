"""The steps of the flows: each a Prefect task around plain functions, and a stage of its run.

Nothing that matters is kept by Prefect alone, since a killed process leaves Prefect's states behind
as they were.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.protocol import run_key
from infra.stores import Store
from model.counted import counted
from model.dataset import Dataset
from model.manifest import Manifest
from pipeline import artifacts, preparation
from pipeline.archive import Archive
from pipeline.machines import preparing_place
from pipeline.parameters import home
from pipeline.pictures import Picture, overview_png
from pipeline.report import render_report
from pipeline.run import Run
from pipeline.run_record import Unchanged
from pipeline.spread import Spread
from pipeline.stages.decide import Settled, decided_earlier, must_not_fail_again, rival, settle
from pipeline.stages.fetch_checkpoint import evaluate_again, fetch_checkpoint
from pipeline.stages.prepare import archives_in_store, prepare_there
from pipeline.stages.separate import Separation
from pipeline.stages.train import job_for, train
from pipeline.tenancy import Workplace
from pipeline.volume_route import VolumeRoute

if TYPE_CHECKING:
    from model.checkpoint import CheckpointManifest
    from model.evaluate import Evaluation


@dataclass(frozen=True)
class Made:
    """What a run made, and what it was made from."""

    dataset: Manifest
    checkpoint: "CheckpointManifest"
    folder: Path  # the dataset, verified, on this computer


@task(name="extract", cache_policy=NO_CACHE)
def extract_archives(run: Run, spread: Spread | None) -> list[Archive]:
    """Bring every archive to where its photos can be read by offset."""
    with run.stage("extract") as stage:
        return preparation.extract_archives(run.parameters, run.store, run.spool, stage, spread)


@task(name="separate", cache_policy=NO_CACHE)
def separate_pairs(run: Run, archives: list[Archive]) -> Separation:
    """Find the photos with masks, and split them into train, val and test."""
    with run.stage("separate") as stage:
        return preparation.separate_pairs(
            archives, run.parameters, run.store, run.spool, stage, needed=preparation.TO_TRAIN
        )


@task(name="build-dataset", cache_policy=NO_CACHE)
def build_shards(
    run: Run, separation: Separation, archives: list[Archive], spread: Spread | None
) -> Manifest:
    """Turn the pairs into shards of photos and class indices in the store."""
    with run.stage("build-dataset") as stage:
        return preparation.build_shards(
            separation,
            archives,
            run.parameters,
            run.store,
            run.spool,
            stage,
            spread,
            needed=preparation.TO_TRAIN,
        )


@task(name="prepare", cache_policy=NO_CACHE)
def prepare_elsewhere(run: Run) -> tuple[Manifest, dict[str, str]]:
    """The first three stages on a machine rented for them, straight into the store."""
    with run.stage("extract") as stage:
        archives = archives_in_store(run.parameters, run.store, run.spool, report=stage.report)
        stage.summary = f"{counted(len(archives), 'archive')} where the other machine reads them"
    with preparing_place(run) as place:
        return _prepare(run, place, archives)


@task(name="prepare", cache_policy=NO_CACHE)
def prepare_on_volume(run: Run, route: VolumeRoute) -> tuple[Manifest, dict[str, str]]:
    """The first three stages on the machine that has the Volume."""
    with run.stage("extract") as stage:
        archives = route.archives(stage)
        stage.summary = f"{counted(len(archives), 'archive')} where the other machine reads them"
    return _prepare(run, route.preparer(), archives)


def _prepare(
    run: Run, place: Workplace, archives: tuple[str, ...]
) -> tuple[Manifest, dict[str, str]]:
    with run.stage("prepare") as stage:
        dataset, prepared = prepare_there(
            run.run_id, run.parameters, place, archives, report=stage.report, say=stage.say
        )
        stage.summary = f"{sum(dataset.counts.values()):,} samples on {place.machine.where}"
    return dataset, prepared.sources


@task(name="move-volume", cache_policy=NO_CACHE)
def move_to_trainer(run: Run, route: VolumeRoute, dataset: Manifest) -> Workplace:
    """A machine with a GPU, and the Volume moved into it."""
    with run.stage("rent") as stage:
        return route.trainer(dataset, stage)


@task(name="bring-back", cache_policy=NO_CACHE)
def bring_back(run: Run, route: VolumeRoute) -> Store:
    """Move the Volume back; the GPU machine is deleted, the records come home."""
    with run.stage("bring-back") as stage:
        store = route.bring_back(stage)
        stage.summary = "the Volume is back, the machine with the GPU is gone"
    return store


@task(name="compare-inputs", cache_policy=NO_CACHE)
def compare_inputs(run: Run, dataset: Manifest) -> Unchanged | None:
    """Why nothing need be trained; None where something has changed, or it must be all the same.

    What could not be decided in the end is refused now, before anything is rented.
    """
    with run.stage("compare-inputs") as stage:
        assert run.inputs
        known = (
            None
            if run.parameters.force
            else decided_earlier(run.store, run.inputs, run.parameters.resolved_recipe())
        )
        if known and known.checkpoint.run_id != run.run_id:  # else it was decided before a resume
            run.unchanged = Unchanged(
                run_id=run.run_id,
                trained_by=known.checkpoint.run_id,
                decision=known.kind,
                decided=known.time,
                compared=run.inputs.in_words(),
            )
            stage.summary = run.unchanged.said
            artifacts.show_unchanged(run.unchanged)
            return run.unchanged
        if not (run.parameters.force or run.earlier):
            must_not_fail_again(run.store, run.run_id, run.inputs, run.parameters)
        against = rival(run.store, dataset, home() / "fetched")
        champion = against.history.champion
        changes = run.inputs.changes_since(champion.inputs) if champion and champion.inputs else ()
        for change in changes:
            stage.say(change)
        changed = counted(len(changes), "change")
        stage.summary = (
            f"{changed} since the champion, run {champion.checkpoint.run_id}"
            if champion
            else "there is no champion yet"
        )
    return None


@task(name="train", cache_policy=NO_CACHE)
def train_net(run: Run, dataset: Manifest, place: Workplace) -> None:
    """Train on a machine, through its agent; whatever happens, the job is not left running."""
    with run.stage("train") as stage:
        parameters = run.parameters
        job = job_for(
            run.run_id,
            parameters.resolved_recipe(),
            dataset,
            place.store,
            device=parameters.device,
            workers=parameters.workers,
            wandb=parameters.wandb,
            deadline_seconds=place.seconds,
            weights_url=preparation.weights_url(parameters),
            threads=parameters.threads,
            ranks=parameters.ranks or place.gpus,
            keep_step=parameters.keep_step,
        )
        result = train(
            job,
            place.store,
            place.machine,
            begun=place.begun,
            clock=place.clock,
            patience=place.patience,
            report=stage.report,
            say=stage.say,
            must_hold=run.must_hold,
        )
        seconds = (result.ended - result.started).total_seconds()
        stage.summary = f"{seconds:.0f} s on {place.machine.where}"


@task(name="fetch-checkpoint", cache_policy=NO_CACHE)
def fetch_best(run: Run, store: Store) -> "CheckpointManifest":
    """Bring the best checkpoint that verifies home."""
    with run.stage("fetch-checkpoint") as stage:
        checkpoint = fetch_checkpoint(run.run_id, store, run.folder)
        stage.summary = f"step {checkpoint.step}, {checkpoint.size / 1e6:.1f} MB, verified"
    return checkpoint


@task(name="evaluate", cache_policy=NO_CACHE)
def score_again(run: Run, made: Made) -> "Evaluation":
    """Score the checkpoint once more, here, on the dataset's verified folder."""
    with run.stage("evaluate") as stage:
        evaluation = evaluate_again(
            made.checkpoint,
            run.folder,
            made.folder,
            device=run.parameters.device,
            report=stage.report,
        )
        stage.summary = (
            f"mIoU {evaluation.score.miou:.4f} on {evaluation.score.images:,} images, as in "
            "training"
        )
    return evaluation


@task(name="decide", cache_policy=NO_CACHE)
def settle_champion(run: Run, made: Made, evaluation: "Evaluation") -> Settled:
    """Hold the checkpoint against the champion, and promote it if it is better."""
    with run.stage("decide") as stage:
        assert run.inputs
        recipe = made.checkpoint.recipe
        run.must_hold()
        settled = settle(
            run.store,
            made.dataset,
            made.folder,
            made.checkpoint,
            run.folder / "checkpoint.pt",
            run.inputs,
            home() / "fetched",
            passes=recipe.min_miou is None or evaluation.score.miou >= recipe.min_miou,
            device=run.parameters.device,
            report=stage.report,
        )
        decision = settled.decision
        stage.summary = f"{decision.kind}: {decision.said}"
        disputes = settled.pictures(Dataset(made.folder, "val"))
        shown = overview_png(disputes, made.dataset.classes) if disputes else None
        artifacts.show_decision(decision, shown)
        run.decided(stage.summary)
    return settled


def write_report(run: Run, made: Made, evaluation: "Evaluation", settled: Settled | None) -> str:
    """Write the report to the store and beside the checkpoint; returns its path here."""
    val = Dataset(made.folder, "val")
    pictures = [
        Picture(*val[position], prediction)
        for position, prediction in sorted(evaluation.predictions.items())
    ]
    html = render_report(
        run_id=run.run_id,
        checkpoint=made.checkpoint,
        score=evaluation.score,
        records=run.metrics(),
        pictures=pictures,
        stages=run.stages,
        left_out=val.manifest.left_out,
        counts=val.manifest.counts,
        sources=run.sources,
        max_side=val.manifest.max_side,
        decision=settled.decision if settled else None,
        disputes=settled.pictures(val) if settled else (),
    ).encode()
    run.store.put(run_key(run.run_id, "report.html"), html)
    report = run.folder / "report.html"
    report.write_bytes(html)
    artifacts.show_samples(overview_png(pictures, val.manifest.classes))
    return str(report)
