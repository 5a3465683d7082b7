"""The table of runs: what is in it, in which order, and how little it asks of the store."""

import json
import threading
from datetime import datetime, timedelta
from typing import Any

import pytest

from infra.failure import Cause
from infra.protocol import now
from infra.stores import Store
from pipeline.run_record import Outcome
from pipeline.runs import Wanted, print_runs, read_runs
from spending import PRICE, CountingStore, record, rented


def outcome(run_id: str, miou: float) -> Outcome:
    return Outcome(
        run_id=run_id, checkpoint="c", sha256="", weights_digest="", miou=miou, iou={}, dice={},
        report="", seconds={}, reused=(),
    )  # fmt: skip


@pytest.fixture
def several(store: Store) -> Store:
    """Four runs, a day apart; the newest is at work on a machine."""
    days = [now() - timedelta(days=days, minutes=5) for days in range(4)]
    own = {"machine": "local", "recipe": "simple-fcn"}
    record(store, "261119-aaaaa", "done", started=days[3], parameters=own)
    record(
        store,
        "261120-bbbbb",
        "done",
        started=days[2],
        parameters={"recipe": "people-unet11"},
        outcome=outcome("261120-bbbbb", 0.5678),
    )
    rented(store, "261120-bbbbb", days[2], hours=2.5, with_receipt=True)
    record(store, "261121-ccccc", "failed", started=days[1], cause=Cause.BUDGET, message="no")
    rented(store, "261121-ccccc", days[1], hours=1, with_receipt=True)
    record(store, "261122-ddddd", started=days[0])
    rented(store, "261122-ddddd", days[0])
    return store


def ids(store: Store, **wanted: Any) -> list[str]:
    return [run.record.run_id[-1] for run in read_runs(store, Wanted(**wanted))]


def test_the_table_has_it_all_and_marks_what_costs_still(
    several: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    print_runs(several, Wanted(), as_json=False)
    said = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert lines[0] == "started run recipe mIoU dollars state cause"
    assert lines[1].endswith("261122-ddddd tiny 0.52* running")
    assert lines[2].endswith("261121-ccccc tiny 0.52 failed BUDGET")
    assert lines[3].endswith("261120-bbbbb people-unet11 0.5678 1.56 done")
    assert lines[4].endswith("261119-aaaaa simple-fcn done")
    assert "* costs still" in lines[5]
    assert max(map(len, said.splitlines())) <= 80
    print_runs(several, Wanted(state="done"), as_json=False)
    assert "costs still" not in capsys.readouterr().out


def test_for_programs_it_is_the_record_with_what_it_costs(
    several: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    print_runs(several, Wanted(last=2), as_json=True)
    at_work, failed = json.loads(capsys.readouterr().out)
    assert (at_work["state"], at_work["dollars"]) == ("running", PRICE)
    (machine,) = at_work["costs_still"]
    assert (machine["label"], machine["dollars_per_hour"]) == ("voc-train-261122-ddddd-t1", PRICE)
    assert (failed["cause"], failed["dollars"], failed["costs_still"]) == ("BUDGET", PRICE, [])
    print_runs(several, Wanted(state="trained"), as_json=True)
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, ["d", "c", "b", "a"]),
        ({"recipe": "people-unet11"}, ["b"]),
        ({"recipe": "none"}, []),
        ({"state": "done"}, ["b", "a"]),
        ({"state": "done", "last": 1}, ["b"]),
        ({"state": "running"}, ["d"]),
        ({"cause": Cause.BUDGET}, ["c"]),
        ({"last": 3}, ["d", "c", "b"]),
        ({"recipe": "tiny", "last": 2}, ["d", "c"]),
    ],
)
def test_filters(several: Store, wanted: dict[str, Any], found: list[str]) -> None:
    assert ids(several, **wanted) == found


def test_only_what_began_since(several: Store) -> None:
    assert ids(several, since=now() - timedelta(days=1, hours=1)) == ["d", "c"]


def test_an_empty_answer_says_whether_there_are_runs_at_all(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    print_runs(store, Wanted(), as_json=False)
    assert "No runs in" in capsys.readouterr().out
    record(store, "261119-aaaaa", "done")
    print_runs(store, Wanted(last=1, state="failed"), as_json=False)
    assert "No such runs in" in capsys.readouterr().out


def test_a_run_that_is_over_takes_three_requests_at_the_most(several: Store) -> None:
    # The listing and a reaper's last look; then each run's record, and where it rented its receipt
    # and a listing of its intents. So 1,000 runs take 3,002 requests, 32 at a time. One that goes
    # on takes its heartbeat, its result, and three for each thing it rents.
    store = CountingStore.of(several)
    read_runs(store, Wanted(recipe="people-unet11"))
    assert store.requests == 2 + 4 + 2  # those left out by their record cost no more than that
    store.requests = 0
    read_runs(store, Wanted(recipe="simple-fcn"))
    assert store.requests == 2 + 4  # nothing was rented where it trained


@pytest.mark.parametrize("cause", [Cause.STORE, Cause.CANCELLED])
def test_a_receipt_of_an_earlier_attempt_is_not_the_last_word(store: Store, cause: Cause) -> None:
    began: datetime = now() - timedelta(minutes=90)
    record(store, "261122-ddddd", "failed", cause=cause)
    rented(store, "261122-ddddd", began, hours=0.5, with_receipt=True)
    rented(store, "261122-ddddd", began, hours=1, number=2)  # no receipt could be written
    (run,) = read_runs(store)
    assert run.costs
    assert run.costs.dollars(now()) == pytest.approx(2 * PRICE)


def test_what_a_bucket_is_slow_to_tell_is_asked_for_at_once(several: Store) -> None:
    answered_together = threading.Barrier(4, timeout=10)

    class Slow(CountingStore):
        def get(self, key: str) -> bytes | None:
            if key.endswith("run.json"):
                answered_together.wait()  # raises where one waits for the other's end
            return super().get(key)

    assert len(read_runs(Slow.of(several))) == 4
