"""Who is told how a run ended, and what."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from commands import VocTrain
from infra.failure import Cause, Failure
from infra.protocol import now
from infra.provider import Kind
from infra.reaper_report import Found, ReaperReport, State
from infra.receipt import Receipt, write_receipt
from infra.stores import Store
from pipeline.messenger import Messenger, tell_of_leak
from pipeline.parameters import Parameters
from pipeline.run import Run
from pipeline.run_record import Outcome, Trial, Unchanged
from pipeline.sample_archive import SAMPLE_CLASSES, write_sample_archive
from pipeline.sweeping import Trials
from servers.prefect import PrefectServer
from servers.receiver import CANARY, Receiver


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Receiver() as receiver:
        monkeypatch.setenv("VOC_TRAIN_NOTIFY", receiver.url)
        yield receiver


@pytest.mark.usefixtures("flows")
def test_a_decision_and_the_end_are_told_and_the_url_is_kept(
    receiver: Receiver, tmp_path: Path, store: Store, voc_train: VocTrain, prefect: PrefectServer
) -> None:
    archive = tmp_path / "shapes.tar"
    write_sample_archive(archive, train=6, val=3)
    done = voc_train(
        *("run", "local", "--archive", archive, "--promote", "--json"),
        *("--classes", ",".join(SAMPLE_CLASSES), "--recipe", "tiny", "--workers", "0"),
        *("--set", "epochs=1", "--set", "min_miou=none", "--wandb", "disabled"),
        *("--store", store.url),
    )
    outcome = json.loads(done.out)
    decided, ended = receiver.messages
    assert decided["title"] == f"voc-train: run {outcome['run_id']} was {outcome['decision']}"
    assert outcome["decision_said"] in decided["message"]
    assert ended["title"] == (
        f"voc-train: run {outcome['run_id']} is done, mIoU {outcome['miou']:.4f}"
    )
    assert f"report      {outcome['report']}" in ended["message"]

    assert CANARY not in done.out + done.err
    known = Path(prefect.environment["PREFECT_HOME"])
    kept = [path.read_bytes() for path in known.rglob("*") if path.is_file()]
    assert outcome["run_id"].encode() in b"".join(kept)
    kept += [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [data for data in kept if CANARY.encode() in data]


@pytest.fixture
def run(store: Store) -> Run:
    return Run(Parameters(archives=("a.tar",), store=store.url), [Messenger(store.url)])


@pytest.mark.parametrize("cause", [Cause.STALLED, Cause.LEAKED])
def test_a_failure_is_told_with_cause_cure_and_cost(
    receiver: Receiver, run: Run, cause: Cause
) -> None:
    write_receipt(run.store, Receipt(run_id=run.run_id, time=now(), lines=(), dollars=1.04))
    with pytest.raises(Failure), run.recorded():
        raise Failure(cause, "It is not heard. Look there.")
    (message,) = receiver.messages
    leaked = cause is Cause.LEAKED
    assert message["type"] == ("failure" if leaked else "info")
    assert message["title"] == (
        f"LEAKED: voc-train: run {run.run_id} left something that costs money"
        if leaked
        else f"voc-train: run {run.run_id} failed: STALLED"
    )
    assert message["message"] == "It is not heard. Look there.\ncost        $1.04"


def test_a_sweep_tells_of_its_best_setting_and_its_trials_of_nothing(
    receiver: Receiver, run: Run
) -> None:
    run.trials = tuple(Trial(run_id=lr, settings={"lr": lr}) for lr in ("0.1", "1"))
    for trial, miou in zip(Trials(run).runs, (0.25, 0.5), strict=True):
        with trial.recorded():
            trial.outcome = Outcome(
                run_id=trial.run_id, checkpoint="", sha256="", weights_digest="", miou=miou, iou={},
                dice={}, report="", seconds={}, reused=(),
            )  # fmt: skip
    with run.recorded():
        pass
    (message,) = receiver.messages
    assert message["title"] == f"voc-train: sweep {run.run_id} is done"
    assert message["message"] == "best        lr=1, mIoU 0.5000, run 1"


def test_one_that_was_replaced_tells_of_no_end(receiver: Receiver, run: Run) -> None:
    with pytest.raises(Failure), run.recorded():
        raise Failure(Cause.CLAIMED, "Another computer drives it.")
    assert receiver.messages == []


def test_that_nothing_has_changed_is_told_only_if_wished(
    receiver: Receiver, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.unchanged = Unchanged(
        run_id=run.run_id, trained_by="r", decision="promoted", decided=now(), compared="all"
    )
    with run.recorded():
        pass
    assert receiver.messages == []
    monkeypatch.setenv("VOC_TRAIN_NOTIFY_UNCHANGED", "1")
    with run.recorded():
        pass
    assert receiver.titles == [f"voc-train: run {run.run_id} had nothing to do"]
    assert receiver.messages[0]["message"] == run.unchanged.said


def test_a_receiver_that_fails_ends_no_run(receiver: Receiver, run: Run) -> None:
    receiver.status = 500
    with run.recorded():
        run.decided("promoted: it is better")
    assert receiver.titles == [f"voc-train: run {run.run_id} was promoted"]


def _seen(store: Store, minutes: float, state: State = "lingers") -> ReaperReport:
    """A look of a reaper, so many minutes after the first; what it saw is told as it must be."""
    start = now().replace(year=2026, month=1)
    found = Found(
        kind=Kind.INSTANCE, id=7, label="voc-train-r-t1", run_id="r", until=start,
        dollars_per_hour=0.52, state=state,
    )  # fmt: skip
    time = start.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(minutes=minutes)
    before = store.read("reaper.json", ReaperReport)
    report = ReaperReport(time=time, deletes=True, found=(found,))
    store.write("reaper.json", report)
    tell_of_leak(store, report, before)
    return report


def test_what_a_reaper_cannot_delete_is_told_at_the_second_look_and_each_hour(
    receiver: Receiver, store: Store
) -> None:
    _seen(store, 0)
    _seen(store, 0.1)  # as another reaper may look in the same moment
    assert receiver.messages == []
    _seen(store, 5)
    (message,) = receiver.messages
    assert message["title"].startswith("LEAKED: voc-train: a reaper cannot delete")
    assert message["message"] == "instance voc-train-r-t1 (id 7, $0.52 an hour)"
    assert message["type"] == "failure"
    for minutes in range(10, 65, 5):
        _seen(store, minutes)
    assert len(receiver.messages) == 1
    _seen(store, 65)
    assert len(receiver.messages) == 2


def test_what_is_gone_at_the_second_look_is_not_told(receiver: Receiver, store: Store) -> None:
    _seen(store, 0)
    _seen(store, 5, "gone")
    _seen(store, 10)
    assert receiver.messages == []


def test_what_cannot_be_looked_at_twice_is_told(receiver: Receiver, store: Store) -> None:
    first = ReaperReport(time=now(), deletes=True, unseen={Kind.INSTANCE: "No permission."})
    second = first.model_copy(update={"time": first.time + timedelta(minutes=5)})
    tell_of_leak(store, second, first)
    assert receiver.messages[0]["message"] == "No instance can be looked at: No permission."


def test_a_message_can_be_tried(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, voc_train: VocTrain
) -> None:
    assert voc_train("notify", "Hello").out == "JSON took it.\n"
    assert receiver.messages[0]["message"] == "Hello"
    assert json.loads(voc_train("notify", "Hello", "--json").out) == {"took": ["JSON"]}
    monkeypatch.setenv("VOC_TRAIN_NOTIFY", f"json://127.0.0.1:1/{CANARY}")
    failed = voc_train("notify", "Hello", "--json")
    assert failed.code == 1
    assert "JSON did not take the message" in failed.err
    assert json.loads(failed.out)["cause"] == "PROVIDER"
    assert CANARY not in failed.err + failed.out
    monkeypatch.delenv("VOC_TRAIN_NOTIFY")
    assert "VOC_TRAIN_NOTIFY is not set: put" in voc_train("notify", "Hello").err
