"""The flow `voc-train`: extract, separate, build-dataset, train, fetch-checkpoint.

The whole story of a run stands in `voc_train` below. Each stage is a Prefect task around a plain
function from `pipeline/stages/`; nothing that matters is kept by Prefect alone, since a killed
process leaves Prefect's states behind as they were.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow, runtime, task
from prefect.cache_policies import NO_CACHE

from infra.failure import Cause, Failure
from infra.processes import end_with_parent
from infra.protocol import run_key
from infra.stores import Store
from model.dataset import Dataset, Manifest
from pipeline import artifacts, preparation
from pipeline.archive import Archive
from pipeline.cancellation import heeded
from pipeline.dataset import local_dataset
from pipeline.machines import first_that_lasts, must_be_available, preparing_place, workplaces
from pipeline.messenger import Messenger
from pipeline.parameters import Parameters, home
from pipeline.pictures import Picture, overview_png
from pipeline.progress import listening
from pipeline.rental_queue import has_a_machine, place_to_rent
from pipeline.report import render_report
from pipeline.run import Outcome, Run, Unchanged, recorded_run
from pipeline.stages.decide import Settled, decided_earlier, must_be_comparable, rival, settle
from pipeline.stages.fetch_checkpoint import evaluate_again, fetch_checkpoint, must_pass_gate
from pipeline.stages.prepare import archives_in_store, prepare_there
from pipeline.stages.separate import Separation
from pipeline.stages.train import job_for, train
from pipeline.tenancy import MACHINES, Workplace
from pipeline.volume_route import VolumeRoute, volume_route
from pipeline.wandb_sync import show_champion

if TYPE_CHECKING:
    from model.checkpoint import CheckpointManifest
    from model.evaluate import Evaluation


@dataclass(frozen=True)
class Made:
    """What a run made, and what it was made from."""

    dataset: Manifest
    checkpoint: "CheckpointManifest"
    folder: Path  # the dataset, verified, on this computer


@flow(name="voc-train", flow_run_name="{parameters.recipe}", validate_parameters=True)
def voc_train(parameters: Parameters, resume: str | None = None) -> Outcome | Unchanged:
    """Train a segmentation net on an archive of photos and masks, and bring the checkpoint home.

    With `resume`, the id of an earlier run with these parameters, it goes on where that one is.
    With `parameters.promote` it trains only where something has changed, and says so where nothing
    has; what it trained becomes champion if it is better than the one there is.
    """
    if runtime.deployment.id:
        end_with_parent()  # without its worker, nobody could cancel it
    earlier = recorded_run(Store.open(parameters.store), resume) if resume else None
    listeners = [artifacts.PrefectListener(), *listening.get()]
    run = Run(parameters, [*listeners, Messenger(parameters.store)], earlier=earlier)
    if earlier:  # what is refused changes nothing of what is known of it
        must_be_possible(run)
    with heeded(), run.recorded():
        if not earlier:
            must_be_possible(run)
        if parameters.by_volume:
            made = made_by_volume(run)
        else:
            dataset = prepared_in_store(run)
            # One that has rented goes on: its machine has to be deleted in any case.
            asks = parameters.promote and not has_a_machine(run)
            if asks and (unchanged := unchanged_since(run, dataset)):
                return unchanged
            made = made_by_store(run, dataset)
        return score(run, made)


def score(run: Run, made: Made) -> Outcome:
    """Score what was made, report it, and hold it against champion and gate."""
    evaluation = score_again(run, made)
    settled = settle_champion(run, made, evaluation) if run.parameters.promote else None
    report = write_report(run, made, evaluation, settled)
    checkpoint = made.checkpoint
    run.outcome = Outcome(
        run_id=run.run_id,
        checkpoint=str(run.folder / "checkpoint.pt"),
        sha256=checkpoint.sha256,
        weights_digest=checkpoint.weights_digest,
        miou=evaluation.score.miou,
        iou=evaluation.score.iou,
        dice=evaluation.score.dice,
        report=report,
        seconds={stage.name: round(stage.seconds, 3) for stage in run.stages},
        reused=tuple(stage.name for stage in run.stages if stage.reused),
        decision=settled.decision.kind if settled else None,
        decision_said=settled.decision.said if settled else "",
    )
    artifacts.summarise(run.outcome, run.stages, evaluation.score)
    if settled and settled.decision.kind == "promoted":
        show_champion(run.store, run.say)
    must_pass_gate(checkpoint.recipe, evaluation.score.miou, report)
    return run.outcome


def must_be_possible(run: Run) -> None:
    """Refuse what cannot work now, rather than after an hour of preparation."""
    preparation.must_be_trainable(run.parameters)
    if run.parameters.promote:
        must_be_comparable(run.store, run.parameters.classes)
    must_be_available(run)


def prepared_in_store(run: Run) -> Manifest:
    """The dataset, in the store: the machine that trains sees it, or is this computer."""
    if earlier := preparation.prepared_earlier(run, run.store):
        dataset, sources = earlier
    elif run.parameters.prepared_elsewhere:
        dataset, sources = prepare_elsewhere(run)
    else:
        archives = extract_archives(run)
        separation = separate_pairs(run, archives)
        dataset = build_shards(run, separation, archives)
        sources = {archive.sha256: archive.source for archive in archives}
    run.prepared(dataset, sources)
    return dataset


def unchanged_since(run: Run, dataset: Manifest) -> Unchanged | None:
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
        against = rival(run.store, dataset, home() / "fetched")
        champion = against.history.champion
        changes = run.inputs.changes_since(champion.inputs) if champion and champion.inputs else ()
        for change in changes:
            stage.say(change)
        stage.summary = (
            f"{len(changes)} change(s) since the champion, run {champion.checkpoint.run_id}"
            if champion
            else "there is no champion yet"
        )
    return None


def made_by_store(run: Run, dataset: Manifest) -> Made:
    """By way of the store, which the machine that trains sees, too."""
    # What is rented is gone after this block.
    with place_to_rent(run), workplaces(run, dataset) as places:
        late = train_in_time(run, dataset, places)
        with explained_by(late):
            checkpoint = fetch_best(run, run.store)  # verified before anything is deleted
    must_be_in_time(late, run)
    folder = local_dataset(dataset, run.store, home() / "datasets")
    return Made(dataset, checkpoint, folder)


def made_by_volume(run: Run) -> Made:
    """By way of a disk that moves from the machine that prepares to the one that trains."""
    with place_to_rent(run), volume_route(run) as route:  # both machines are gone after this block
        dataset, sources = preparation.prepared_earlier(
            run, route.preparer().store
        ) or prepare_on_volume(run, route)
        run.prepared(dataset, sources)
        trainers = (move_to_trainer(run, route, dataset) for _ in range(MACHINES))
        late = train_in_time(run, dataset, trainers)
        with explained_by(late):
            store = bring_back(run, route)
            checkpoint = fetch_best(run, store)
        must_be_in_time(late, run)
        folder = local_dataset(dataset, store, home() / "datasets")
    return Made(dataset, checkpoint, folder)


def train_in_time(run: Run, dataset: Manifest, places: Iterable[Workplace]) -> Failure | None:
    """Train; where the deadline ended it, what was learned until then has to come home first."""
    try:
        first_that_lasts(places, lambda place: train_net(run, dataset, place))
    except Failure as failure:
        if failure.cause is not Cause.DEADLINE:
            raise
        return failure
    return None


@contextmanager
def explained_by(late: Failure | None) -> Iterator[None]:
    """Where nothing can be fetched after a deadline, the deadline is the thing to hear of."""
    try:
        yield
    except Failure as failure:
        raise late or failure from failure


def must_be_in_time(late: Failure | None, run: Run) -> None:
    """Raise the Failure of a training that its deadline ended, its checkpoint being home."""
    if late:
        checkpoint = run.folder / "checkpoint.pt"
        raise Failure(late.cause, f"{late} What was learned until then is {checkpoint}.") from late


@task(name="extract", cache_policy=NO_CACHE)
def extract_archives(run: Run) -> list[Archive]:
    """Bring every archive to where its photos can be read by offset."""
    with run.stage("extract") as stage:
        return preparation.extract_archives(run.parameters, run.store, run.spool, stage)


@task(name="separate", cache_policy=NO_CACHE)
def separate_pairs(run: Run, archives: list[Archive]) -> Separation:
    """Find the photos with masks, and split them into train, val and test."""
    with run.stage("separate") as stage:
        return preparation.separate_pairs(
            archives, run.parameters, run.store, run.spool, stage, needed=preparation.TO_TRAIN
        )


@task(name="build-dataset", cache_policy=NO_CACHE)
def build_shards(run: Run, separation: Separation, archives: list[Archive]) -> Manifest:
    """Turn the pairs into shards of photos and class indices in the store."""
    with run.stage("build-dataset") as stage:
        return preparation.build_shards(
            separation,
            archives,
            run.parameters,
            run.store,
            run.spool,
            stage,
            needed=preparation.TO_TRAIN,
        )


@task(name="prepare", cache_policy=NO_CACHE)
def prepare_elsewhere(run: Run) -> tuple[Manifest, dict[str, str]]:
    """The first three stages on a machine rented for them, straight into the store."""
    with run.stage("extract") as stage:
        archives = archives_in_store(run.parameters, run.store, run.spool, report=stage.report)
        stage.summary = f"{len(archives)} archive(s) where the other machine reads them"
    with preparing_place(run) as place:
        return _prepare(run, place, archives)


@task(name="prepare", cache_policy=NO_CACHE)
def prepare_on_volume(run: Run, route: VolumeRoute) -> tuple[Manifest, dict[str, str]]:
    """The first three stages on the machine that has the Volume."""
    with run.stage("extract") as stage:
        archives = route.archives(stage)
        stage.summary = f"{len(archives)} archive(s) where the other machine reads them"
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
