"""Which trial is trained where, and what ends a sweep: decided by how the one before it ended."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from infra.attached import Attached
from infra.failure import Cause, Failure
from infra.intents import Intent, Intents
from infra.protocol import Heartbeat, Result, now, run_key
from infra.provider import Kind
from infra.stores import Store
from model.errors import InputError
from model.manifest import Manifest
from pipeline import sweeping
from pipeline.parameters import Parameters
from pipeline.run import Run
from pipeline.run_record import Outcome, RunRecord, recorded_run
from pipeline.sweep import compare
from pipeline.sweeping import Trials, must_be_whole, trials_of

DATASET = Manifest(
    key="", digest="", classes=("background", "thing"), counts={}, pixels={}, archives=(),
    max_side=None, shards=(), index_sha256="", left_out={},
)  # fmt: skip


class Place:
    seconds = 3600.0
    machine = Attached("a machine")

    def __init__(self, *, begun: bool = False) -> None:
        self.begun = begun


class World:
    """Machines and trainings that are only told of: `ends` says how each training ends."""

    def __init__(
        self, store: Store, *ends: Cause | InputError | None, machine: str = "linode"
    ) -> None:
        self.rented = 0
        self.trained: list[tuple[int, str]] = []  # machine, rate
        self.at_work = False  # whether the first machine is an earlier controller's
        self._ends = list(ends)
        parameters = Parameters(
            archives=("none.tar",), recipe="tiny", store=store.url, machine=machine
        )
        trials = trials_of(parameters, {"lr": ["0.1", "0.2", "0.3"]})
        self.run = Run(parameters, [], trials=trials)
        self.trials = Trials(self.run)
        self.runs = {trial.settings["lr"]: trial.run_id for trial in trials}

    @contextmanager
    def workplaces(self, *_: object) -> Iterator[Iterator[Place]]:
        yield self._places()

    def _places(self) -> Iterator[Place]:
        for _ in range(3 if self.run.parameters.machine == "linode" else 1):
            self.rented += 1
            yield Place(begun=self.at_work and self.rented == 1)

    def train_net(self, run: Run, *_: object) -> None:
        self.trained.append((self.rented, str(run.parameters.overrides["lr"])))
        end = self._ends.pop(0) if self._ends else None
        if isinstance(end, InputError):
            raise end
        if end not in (Cause.AGENT_LOST, Cause.STALLED):  # whose agents leave no result
            result = Result(exit_code=0, cause=end, message="", started=now(), ended=now())
            run.store.write(run_key(run.run_id, "result.json"), result)
        if end:
            raise Failure(end, "It failed.")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: Store) -> Any:
    """A world of these ends, once it was lived through; and what kept it from all of it."""
    monkeypatch.setenv("VOC_TRAIN_HOME", str(tmp_path))
    monkeypatch.setattr(Trials, "_place_of", lambda *_: None)
    monkeypatch.setattr(sweeping, "fetch_best", lambda *_: None)
    monkeypatch.setattr(sweeping, "place_to_rent", nullcontext)

    def told(
        *ends: Cause | InputError | None,
        machine: str = "linode",
        before: Callable[[World], object] = lambda _: None,
    ) -> tuple[World, Cause | None]:
        world = World(store, *ends, machine=machine)
        before(world)
        monkeypatch.setattr(sweeping, "workplaces", world.workplaces)
        monkeypatch.setattr(sweeping, "train_net", world.train_net)
        failure = world.trials.train(DATASET)
        return world, failure and failure.cause

    return told


def test_all_are_trained_at_one_machine_and_none_again(told: Any) -> None:
    world, ended = told()
    assert ended is None
    assert world.trained == [(1, "0.1"), (1, "0.2"), (1, "0.3")]
    assert world.trials.train(DATASET) is None
    assert len(world.trained) == 3
    assert world.rented == 1


def test_what_a_dead_controller_left_at_work_is_deleted_though_all_is_trained(
    told: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, _ = told()
    note = Intent(kind=Kind.INSTANCE, label="voc-train-x-t1", time=now(), until=now())
    Intents.load(store, world.run.run_id).intend(note)
    record = RunRecord(
        run_id=world.run.run_id, state="running", started=now(), parameters={},
        trials=world.run.trials,
    )  # fmt: skip
    entered: list[bool] = []

    @contextmanager
    def workplaces(*_: object) -> Iterator[Iterator[Place]]:
        entered.append(True)
        yield iter(())

    monkeypatch.setattr(sweeping, "workplaces", workplaces)
    again = Trials(Run(world.run.parameters, [], earlier=record))
    assert again.train(DATASET) is None
    assert entered


def test_what_fails_by_its_settings_ends_itself_alone(told: Any) -> None:
    world, ended = told(Cause.USER_ERROR, Cause.OUT_OF_MEMORY)
    assert ended is None
    assert world.trained == [(1, "0.1"), (1, "0.2"), (1, "0.3")]
    assert world.trials.train(DATASET) is None
    assert len(world.trained) == 3


def test_a_machine_that_is_lost_is_replaced_and_what_was_trained_stays(told: Any) -> None:
    world, ended = told(None, Cause.AGENT_LOST)
    assert ended is None
    assert world.trained == [(1, "0.1"), (1, "0.2"), (2, "0.2"), (2, "0.3")]


def at_work(world: World, rate: str) -> None:
    """As if an earlier controller had begun this trial at a machine that is there still."""
    beat = Heartbeat(time=now(), state="running")
    world.run.store.write(run_key(world.runs[rate], "heartbeat.json"), beat)
    world.at_work = True


@pytest.mark.parametrize(
    ("end", "then"),
    [
        (None, [(2, "0.1"), (2, "0.3")]),
        (Cause.USER_ERROR, [(2, "0.1"), (2, "0.3")]),
        (Cause.STALLED, [(2, "0.1"), (2, "0.2"), (2, "0.3")]),
    ],
)
def test_what_is_at_work_is_followed_and_the_rest_has_another_machine(
    told: Any, end: Cause | None, then: list[tuple[int, str]]
) -> None:
    world, ended = told(end, before=lambda world: at_work(world, "0.2"))
    assert ended is None
    assert world.trained == [(1, "0.2"), *then]


def test_after_the_last_that_is_at_work_nothing_is_rented(told: Any) -> None:
    world, _ = told(None, None, Cause.KILLED, Cause.KILLED)
    world.run.store.delete(run_key(world.runs["0.3"], "result.json"))
    at_work(world, "0.3")
    world.rented, world.trained = 0, []
    again = Trials(world.run)
    assert again.train(DATASET) is None
    assert world.trained == [(1, "0.3")]
    assert world.rented == 1


def test_what_ended_a_moment_ago_is_not_begun_at_a_machine_without_a_key(told: Any) -> None:
    world, ended = told(before=lambda world: setattr(world, "at_work", True))
    assert ended is None
    assert world.trained == [(2, "0.1"), (2, "0.2"), (2, "0.3")]


def test_a_setting_that_costs_two_machines_gets_no_third(told: Any) -> None:
    world, ended = told(Cause.STALLED, Cause.STALLED)
    assert ended is None
    assert world.trained == [(1, "0.1"), (2, "0.1"), (3, "0.2"), (3, "0.3")]


def test_no_machine_is_rented_when_nothing_is_left_for_it(told: Any) -> None:
    world, ended = told(None, None, Cause.AGENT_LOST, Cause.AGENT_LOST)
    assert ended is None
    assert world.trained[-1] == (2, "0.3")
    assert world.rented == 2


def test_machines_come_to_an_end(told: Any) -> None:
    lost = Cause.AGENT_LOST
    world, ended = told(lost, lost, lost)
    assert ended is lost
    assert world.trained == [(1, "0.1"), (2, "0.1"), (3, "0.2")]


def test_this_computer_is_not_replaced_and_goes_on_with_the_next(told: Any) -> None:
    world, ended = told(Cause.AGENT_LOST, machine="local")
    assert ended is None
    assert world.trained == [(1, "0.1"), (1, "0.2"), (1, "0.3")]


def whole(world: World) -> None:
    """See whether the sweep is, as its flow does in the end."""
    record = RunRecord(
        run_id=world.run.run_id, state="running", started=now(), parameters={},
        trials=world.run.trials,
    )  # fmt: skip
    must_be_whole(compare(world.run.store, record), None)


def put_scores(world: World, *rates: str) -> None:
    """As if the trials of these rates had been scored."""
    for run_id in (world.runs[rate] for rate in rates):
        record = recorded_run(world.run.store, run_id)
        outcome = Outcome(
            run_id=run_id, checkpoint="", sha256="", weights_digest="", miou=0.5, iou={},
            dice={}, report="", seconds={}, reused=(),
        )  # fmt: skip
        scored = record.model_copy(update={"state": "done", "outcome": outcome})
        world.run.store.write(run_key(run_id, "run.json"), scored)


def test_what_failed_of_what_passes_is_missing_and_all_that_a_resume_trains(told: Any) -> None:
    world, _ = told(None, Cause.AGENT_LOST, machine="local")
    put_scores(world, "0.1", "0.3")
    with pytest.raises(Failure) as caught:
        whole(world)
    assert caught.value.cause is Cause.AGENT_LOST
    assert "Missing of 3 settings: lr=0.2 (AGENT_LOST);" in str(caught.value)
    assert f"`voc-train resume {world.run.run_id}` goes on" in str(caught.value)

    assert world.trials.train(DATASET) is None
    assert world.trained[3:] == [(2, "0.2")]
    put_scores(world, "0.2")
    whole(world)


def test_what_failed_by_its_settings_is_a_result(told: Any) -> None:
    world, _ = told(None, Cause.OUT_OF_MEMORY, Cause.USER_ERROR)
    put_scores(world, "0.1")
    whole(world)


def put_failure(world: World, rate: str, cause: Cause) -> None:
    """As if the trial of this rate had failed after its training, with a sentence."""
    record = recorded_run(world.run.store, world.runs[rate])
    failed = {"state": "failed", "cause": cause, "message": "Harmed.", "outcome": None}
    world.run.store.write(run_key(record.run_id, "run.json"), record.model_copy(update=failed))


def test_what_was_trained_and_harmed_is_for_a_new_run_and_no_resume(told: Any) -> None:
    world, _ = told()
    put_scores(world, "0.1", "0.3")
    put_failure(world, "0.2", Cause.CORRUPT)
    with pytest.raises(Failure, match=r"^Harmed\. Missing of 3 settings: lr=0\.2 ") as caught:
        whole(world)
    assert caught.value.cause is Cause.CORRUPT
    assert "a new run or sweep" in str(caught.value)
    assert "voc-train resume" not in str(caught.value)

    world.run.store.delete(run_key(world.runs["0.3"], "result.json"))
    put_failure(world, "0.3", Cause.AGENT_LOST)
    with pytest.raises(Failure, match="a new run or sweep") as caught:
        whole(world)
    assert f"`voc-train resume {world.run.run_id}` goes on with what" in str(caught.value)


def test_what_failed_by_corrupt_data_before_its_end_is_trained_again(told: Any) -> None:
    world, _ = told(Cause.CORRUPT)
    put_scores(world, "0.2", "0.3")
    with pytest.raises(Failure, match="goes on with what is left"):
        whole(world)
    assert world.trials.train(DATASET) is None
    assert world.trained[3:] == [(2, "0.1")]


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (InputError("It has other classes."), Cause.BAD_INPUT),
        (Failure(Cause.CORRUPT, "It was harmed."), Cause.CORRUPT),
    ],
)
def test_one_that_cannot_be_scored_keeps_no_other_from_it(
    told: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, cause: Cause
) -> None:
    world, _ = told()
    scored = []

    def score(run: Run, _: object) -> None:
        scored.append(run.parameters.overrides["lr"])
        if len(scored) == 1:
            raise error

    monkeypatch.setattr(sweeping, "local_dataset", lambda *_: Path("dataset"))
    monkeypatch.setattr(sweeping, "score", score)
    world.trials.score(DATASET)
    assert scored == ["0.1", "0.2", "0.3"]
    record = recorded_run(world.run.store, world.runs["0.1"])
    assert (record.cause, record.message) == (cause, str(error))


def test_what_is_no_input_for_one_setting_is_its_end_alone(told: Any) -> None:
    world, ended = told(InputError("It has no such device."))
    assert ended is None
    assert world.trained == [(1, "0.1"), (1, "0.2"), (1, "0.3")]
    assert recorded_run(world.run.store, world.runs["0.1"]).cause is Cause.BAD_INPUT


@pytest.mark.parametrize("cause", [Cause.DEADLINE, Cause.STORE, Cause.HOST_KEY])
def test_what_no_other_setting_would_escape_ends_the_sweep(told: Any, cause: Cause) -> None:
    world, ended = told(None, cause)
    assert ended is cause
    assert world.trained == [(1, "0.1"), (1, "0.2")]


def test_what_another_controller_drives_is_left_to_it(told: Any) -> None:
    with pytest.raises(Failure) as caught:
        told(Cause.CLAIMED)
    assert caught.value.cause is Cause.CLAIMED


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"machine": "ssh", "ssh_host": "me@there"}, "here, or at Linode"),
        ({"machine": "linode", "rental": {"route": "volume"}}, "by way of a bucket"),
        ({"promote": True}, "promotes nothing"),
    ],
)
def test_what_cannot_be_a_sweep_is_refused(store: Store, more: dict[str, Any], said: str) -> None:
    parameters = Parameters(**({"archives": ("a.tar",), "store": store.url} | more))
    run = Run(parameters, [], trials=trials_of(parameters, {"lr": ["0.1", "0.2"]}))
    with pytest.raises(InputError, match=said):
        Trials(run).must_be_possible()


def test_a_net_that_cannot_be_built_is_refused_before_the_first_is_trained(store: Store) -> None:
    parameters = Parameters(archives=("a.tar",), recipe="voc-resnet-unet", store=store.url)
    trials = trials_of(parameters, {"encoder": ["resnet18", "vgg11"]})
    with pytest.raises(InputError, match="vgg11"):
        Trials(Run(parameters, [], trials=trials)).must_be_possible()


def test_a_flow_without_a_grid_is_refused(store: Store) -> None:
    run = Run(Parameters(archives=("a.tar",), store=store.url), [])
    with pytest.raises(InputError, match="several values"):
        Trials(run).must_be_possible()
