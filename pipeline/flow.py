"""The flow `voc-train`: extract, separate, build-dataset, train, fetch-checkpoint.

The whole story of a run stands in `voc_train` below; its steps are the tasks of `tasks.py`.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from prefect import flow, runtime

from infra.failure import Cause, Failure
from infra.processes import end_with_parent
from infra.stores import Store
from model.manifest import Manifest
from pipeline import artifacts, preparation
from pipeline.cancellation import heeded
from pipeline.dask_cluster import preparers
from pipeline.dataset import local_dataset, must_fit_batches
from pipeline.machines import first_that_lasts, must_be_available, workplaces
from pipeline.messenger import Messenger
from pipeline.parameters import Parameters, home
from pipeline.progress import who_listens
from pipeline.rental_queue import has_a_machine, place_to_rent
from pipeline.run import Run
from pipeline.run_record import Outcome, Unchanged, recorded_run
from pipeline.stages.decide import must_be_comparable
from pipeline.stages.fetch_checkpoint import must_pass_gate
from pipeline.tasks import (
    Made,
    bring_back,
    build_shards,
    compare_inputs,
    extract_archives,
    fetch_best,
    move_to_trainer,
    prepare_elsewhere,
    prepare_on_volume,
    score_again,
    separate_pairs,
    settle_champion,
    train_net,
    write_report,
)
from pipeline.tenancy import MACHINES, Workplace
from pipeline.volume_route import volume_route
from pipeline.wandb_sync import show_champion


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
    listeners = [artifacts.PrefectListener(), *who_listens()]
    run = Run(parameters, [*listeners, Messenger(parameters.store)], earlier=earlier)
    if earlier:  # what is refused changes nothing of what is known of it
        must_be_possible(run)
    with heeded(), run.recorded():
        if not earlier:
            must_be_possible(run)
        if parameters.by_volume:
            with place_to_rent(run):
                return score(run, made_by_volume(run))
        dataset = prepared_in_store(run)
        # One that has rented goes on: its machine has to be deleted in any case.
        asks = parameters.promote and not has_a_machine(run)
        if asks and (unchanged := compare_inputs(run, dataset)):
            return unchanged
        # The place is given up when all is decided: whoever comes next asks what has changed since.
        with place_to_rent(run) as waited:
            if asks and waited and (unchanged := compare_inputs(run, dataset)):
                return unchanged
            return score(run, made_by_store(run, dataset))


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
    try:
        must_be_available(run)
    except Failure as failure:
        if not run.parameters.promote or run.earlier:
            raise
        # Where nothing has changed no place is needed; where it has, the same is asked once more.
        run.say(
            f"{failure} That matters only where something has changed, which is looked at first"
        )


def prepared_in_store(run: Run) -> Manifest:
    """The dataset, in the store: the machine that trains sees it, or is this computer."""
    if earlier := preparation.prepared_earlier(run, run.store):
        dataset, sources = earlier
    elif run.parameters.prepared_elsewhere:
        dataset, sources = prepare_elsewhere(run)
    else:
        with preparers(run.parameters.rental.prepare_on) as spread:  # None: this computer alone
            archives = extract_archives(run, spread)
            separation = separate_pairs(run, archives)
            dataset = build_shards(run, separation, archives, spread)
        sources = {archive.sha256: archive.source for archive in archives}
    run.prepared(dataset, sources)
    must_fit_batches(dataset, run.parameters.resolved_recipe(), run.store)
    return dataset


def made_by_store(run: Run, dataset: Manifest) -> Made:
    """By way of the store, which the machine that trains sees, too."""
    # What is rented is gone after this block.
    with workplaces(run, dataset) as places:
        late = train_in_time(run, dataset, places)
        with explained_by(late):
            checkpoint = fetch_best(run, run.store)  # verified before anything is deleted
    must_be_in_time(late, run)
    folder = local_dataset(dataset, run.store, home() / "datasets", ["val"])
    return Made(dataset, checkpoint, folder)


def made_by_volume(run: Run) -> Made:
    """By way of a disk that moves from the machine that prepares to the one that trains."""
    with volume_route(run) as route:  # both machines are gone after this block
        kept_in = route.preparer().store
        earlier = preparation.prepared_earlier(run, kept_in)
        dataset, sources = earlier or prepare_on_volume(run, route)
        run.prepared(dataset, sources, kept_in=kept_in)
        must_fit_batches(dataset, run.parameters.resolved_recipe(), kept_in)
        trainers = (move_to_trainer(run, route, dataset) for _ in range(MACHINES))
        late = train_in_time(run, dataset, trainers)
        with explained_by(late):
            store = bring_back(run, route)
            checkpoint = fetch_best(run, store)
        must_be_in_time(late, run)
        folder = local_dataset(dataset, store, home() / "datasets", ["val"])
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
