"""The flow `sweep`: every combination of some settings, one after the other on one machine.

The dataset is prepared once and a machine rented once. Each combination is a trial: a run of its
own, by the parts of the flow `voc-train`. First all are trained, then the machine is gone, then all
are scored. Nothing is promoted.
"""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from prefect import flow

from infra.failure import Cause, Failure
from infra.machines import LocalMachine
from infra.protocol import run_key
from infra.stores import Store
from model.errors import InputError
from model.manifest import Manifest
from pipeline import artifacts
from pipeline.cancellation import heeded
from pipeline.dataset import local_dataset
from pipeline.flow import must_be_possible, prepared_in_store, score
from pipeline.grid import combinations, in_words
from pipeline.machines import first_that_lasts, workplaces
from pipeline.messenger import Messenger
from pipeline.parameters import Parameters, home
from pipeline.preparation import must_be_trainable
from pipeline.progress import Listener, who_listens
from pipeline.rental_queue import has_a_machine, place_to_rent
from pipeline.run import Run, explained, new_run_id
from pipeline.run_record import RunRecord, Trial, recorded_run
from pipeline.sweep import Comparison, compare, is_over, is_unscored
from pipeline.sweep_report import write_comparison
from pipeline.tasks import Made, fetch_best, train_net
from pipeline.tenancy import Workplace, job_at_work

if TYPE_CHECKING:
    from model.checkpoint import CheckpointManifest

# After these nothing is done any more: it is another controller's, or something costs money still.
_AT_ONCE = {Cause.CLAIMED, Cause.LEAKED}
# After these no other trial would fare better at the same machine.
_OF_ALL = {Cause.CLAIMED, Cause.STORE, Cause.HOST_KEY, Cause.DEADLINE}
_NAMED = 5  # trials that a sentence names
_CHANCES = 2  # machines that may be lost with one trial; it is not given a third


@flow(name="sweep", flow_run_name="{parameters.recipe}", validate_parameters=True)
def sweep(
    parameters: Parameters, grid: dict[str, list[str]] | None = None, resume: str | None = None
) -> Comparison:
    """Train a recipe with every combination of the grid, and compare what comes of it.

    With `resume`, the id of an earlier sweep, it goes on where that one is: what is trained stays.
    """
    store = Store.open(parameters.store)
    earlier = recorded_run(store, resume) if resume else None
    listeners = [artifacts.PrefectListener(), *who_listens(), Messenger(parameters.store)]
    run = Run(parameters, listeners, earlier=earlier, trials=trials_of(parameters, grid or {}))
    trials = Trials(run)
    if earlier:  # what is refused changes nothing of what is known of it
        trials.must_be_possible()
    with heeded(), run.recorded():
        if not earlier:
            trials.must_be_possible()
        dataset = prepared_in_store(run)
        unfinished = trials.train(dataset)
        trials.score(dataset)
        comparison = write_comparison(run, compare(store, recorded_run(store, run.run_id)))
        artifacts.show_comparison(comparison)
        must_be_whole(comparison, unfinished)
    return comparison


def trials_of(parameters: Parameters, grid: Mapping[str, list[str]]) -> tuple[Trial, ...]:
    """A trial for each combination of the grid, if there is one; InputError where it is none."""
    found = combinations(parameters.recipe, parameters.overrides, grid) if grid else []
    return tuple(Trial(run_id=new_run_id(), settings=settings) for settings in found)


def must_be_whole(comparison: Comparison, unfinished: Failure | None) -> None:
    """Raise a Failure where trials are missing, which may come to an end yet, or none is good.

    Its cause is what ended the sweep early, else what ended the first of those that are missing.
    """
    rows, run_id = comparison.rows, comparison.run_id
    missing = [row for row in rows if row.is_missing]
    first = next((Failure(row.cause, row.message) for row in missing if row.cause), None)
    if ended := unfinished or first:
        names = [f"{in_words(row.settings)} ({row.how_it_stands})" for row in missing[:_NAMED]]
        names += [f"{len(missing) - _NAMED} others"] * (len(missing) > _NAMED)
        lost = [row for row in missing if row.is_lost]
        cures = []
        if lost:  # a resume would only look at it again
            cures += ["what is trained and CORRUPT is to be trained by a new run or sweep"]
        if unfinished or lost != missing:
            cures += [f"`voc-train resume {run_id}` goes on with what is left"]
        raise Failure(
            ended.cause,
            f"{ended} Missing of {len(rows)} settings: {', '.join(names) or 'none'}; "
            f"{', and '.join(cures)}.",
        ) from unfinished
    if comparison.best is None:
        raise Failure(
            rows[0].cause or Cause.INTERNAL,
            f"None of {len(rows)} settings came to a good end; with {in_words(rows[0].settings)}: "
            f"{rows[0].message}",
        )


class Trials:
    """The runs of a sweep: trained one after the other, and scored when all are."""

    def __init__(self, sweep: Run) -> None:
        self._sweep = sweep
        self._store = sweep.store
        self._rents = sweep.parameters.machine == "linode"
        self._lost: Counter[str] = Counter()  # machines, by run
        self._home: dict[str, CheckpointManifest] = {}  # fetched, by run
        self._quickest = 0.0  # seconds of the quickest trial, once there is one
        self.runs = [self._run(number, trial) for number, trial in enumerate(sweep.trials, 1)]

    def _run(self, number: int, trial: Trial) -> Run:
        parameters, of = self._sweep.parameters, len(self._sweep.trials)
        overrides = parameters.overrides | trial.settings
        title = f"setting {number} of {of}: {in_words(trial.settings)}"
        run = Run(
            parameters.model_copy(update={"overrides": overrides}),
            [_Within(listener, title) for listener in self._sweep.listeners],
            earlier=self._record(trial.run_id),
            run_id=trial.run_id,
        )
        run.stages.extend(run.earlier.stages if run.earlier else ())
        return run

    def _record(self, run_id: str) -> RunRecord | None:
        return self._store.read(run_key(run_id, "run.json"), RunRecord)

    def _left(self) -> list[Run]:
        """What is still to be trained."""
        return [
            run
            for run in self.runs
            if not is_over(self._store, self._record(run.run_id))
            and self._lost[run.run_id] < _CHANCES
        ]

    def must_be_possible(self) -> None:
        """Refuse what cannot work now, rather than after the first trial."""
        parameters = self._sweep.parameters
        if parameters.machine == "ssh" or parameters.by_volume:
            raise InputError("A sweep trains here, or at Linode by way of a bucket.")
        if parameters.promote:
            raise InputError("A sweep promotes nothing; `voc-train promote RUN` does.")
        if not self.runs:
            raise InputError("There is nothing to compare: give a setting several values.")
        for run in self.runs:
            must_be_trainable(run.parameters)
        if self._left():
            must_be_possible(self._sweep)

    def train(self, dataset: Manifest) -> Failure | None:
        """Train what is not over yet; what kept it from training all of it, if anything did."""
        if not self._left():
            if has_a_machine(self._sweep):  # an earlier controller's, which has done its work
                with workplaces(self._sweep, dataset):
                    pass  # none is rented, and on the way out all is deleted
            return None
        try:
            # What is rented is gone after this block.
            with place_to_rent(self._sweep), workplaces(self._sweep, dataset) as places:
                first_that_lasts(places, lambda place: self._train_at(place, dataset))
        except Failure as failure:
            if failure.cause in _AT_ONCE:
                raise
            return failure
        return None

    def _train_at(self, place: Workplace, dataset: Manifest) -> None:
        """What is left; where an earlier controller had the key to log in, what it began there.

        Raises Failure(AGENT_LOST) where the rest needs another machine for want of that key.
        """
        until = time.monotonic() + place.seconds
        begun_there = job_at_work(self._sweep) if place.begun else None
        for run in self._left():
            if place.begun and run.run_id != begun_there:
                continue
            begun = time.monotonic()
            must_fit(until - begun, self._quickest)
            try:
                with run.recorded(then="running"):  # it is done when it is scored
                    run.prepared(dataset, self._sweep.sources)
                    train_net(run, dataset, self._place_of(run, place, until - begun))
                    self._home[run.run_id] = fetch_best(run, self._store)
            except (Failure, InputError) as error:
                self._note(run, _failure(error))
            else:
                if not place.begun:  # else nobody knows how long it took in all
                    took = time.monotonic() - begun
                    self._quickest = min(took, self._quickest or took)
        if place.begun and self._left():
            raise Failure(
                Cause.AGENT_LOST,
                f"{place.machine.where} can be followed, but not be given another setting: an "
                "earlier controller had the key to log in.",
            )

    def _place_of(self, run: Run, place: Workplace, seconds: float) -> Workplace:
        """The machine for what is left of its time; here each job has its run's own folder."""
        machine = place.machine if self._rents else LocalMachine(run.job_folder)
        return replace(place, machine=machine, seconds=seconds)

    def _note(self, run: Run, failure: Failure) -> None:
        """Raise what ends the work at this machine; anything else is its trial's end alone."""
        if failure.cause in _OF_ALL:
            raise failure
        if failure.of_the_machine and self._rents:
            self._lost[run.run_id] += 1
            if self._left():  # else another would be rented for nothing
                raise failure
        self._sweep.say(f"{failure.cause}: {failure}")

    def score(self, dataset: Manifest) -> None:
        """Score every checkpoint that is not yet."""
        waiting = [run for run in self.runs if is_unscored(self._store, self._record(run.run_id))]
        place = home() / "datasets"
        folder = local_dataset(dataset, self._store, place, ["val"]) if waiting else None
        for run in waiting:
            assert folder
            try:
                with run.recorded():
                    checkpoint = self._home.get(run.run_id) or fetch_best(run, self._store)
                    score(run, Made(dataset, checkpoint, folder))
            except (Failure, InputError) as error:
                failure = _failure(error)
                if failure.cause in _AT_ONCE:
                    raise
                self._sweep.say(f"{failure.cause}: {failure}")


def _failure(error: Failure | InputError) -> Failure:
    """As its trial's record has it; a mistake of ours is none, and ends the sweep."""
    return error if isinstance(error, Failure) else Failure(*explained(error))


def must_fit(left: float, quickest: float) -> None:
    """Raise Failure(DEADLINE) where not even the quickest trial so far would come to its end.

    Both are seconds; 0 where none has ended yet, and then one is begun as long as there is time.
    """
    if left <= quickest:
        raise Failure(
            Cause.DEADLINE,
            f"The time limit or the budget leaves {max(0, left) / 60:.1f} minutes, and the "
            f"quickest setting took {quickest / 60:.1f}.",
        )


class _Within:
    """Tells who listens to a sweep of one of its trials, which begins and ends within it."""

    def __init__(self, listener: Listener, title: str) -> None:
        self._listener = listener
        self._title = title
        self.started, self.advanced = listener.started, listener.advanced
        self.said, self.finished = listener.said, listener.finished
        self.decided = listener.decided

    def began(self, run_id: str) -> None:
        self._listener.said("run", f"{self._title}, run {run_id}")

    def ended(self, run_id: str, failure: str | None) -> None:
        """Whoever drives the sweep says what it means for that."""
