"""How a sweep stands, from the records of its trials; and how that is shown."""

import io
import json
from datetime import timedelta
from typing import Any

import PIL.Image
import pytest

from infra.failure import Cause, Failure
from infra.intents import Intent, Intents
from infra.protocol import Result, now, run_key
from infra.provider import Kind, Thing
from infra.stores import Store
from pipeline.run_record import Outcome, RunRecord, Trial
from pipeline.sweep import Comparison, Row, all_over, compare, is_over, is_unscored
from pipeline.sweep_report import plot_png, render
from pipeline.sweeping import must_be_whole, must_fit

SWEEP = "261122-sweep"


def record(
    store: Store,
    run_id: str,
    miou: float | None = None,
    cause: Cause | None = None,
    *,
    state: str | None = None,
    seconds: float | None = 10,
    stopped: Cause | None = None,
    dice: dict[str, float | None] | None = None,
) -> RunRecord:
    """A trial as it lies in the store; `seconds` None where its agent left no result."""
    outcome = miou is not None and Outcome(
        run_id=run_id, checkpoint="", sha256="", weights_digest="", miou=miou, iou={},
        dice=dice or {"background": 0.9, "person": miou / 2}, report="", seconds={}, reused=(),
    )  # fmt: skip
    made = RunRecord.model_validate(
        {
            "run_id": run_id,
            "state": state or ("failed" if cause else "done" if outcome else "running"),
            "started": now(),
            "parameters": {"recipe": "tiny"},
            "cause": cause,
            "message": "it failed" if cause else "",
            "outcome": outcome or None,
        }
    )
    store.write(run_key(run_id, "run.json"), made)
    if seconds is not None:
        ended = now()
        result = Result(
            exit_code=0, cause=stopped, message="",
            started=ended - timedelta(seconds=seconds), ended=ended,
        )  # fmt: skip
        store.write(run_key(run_id, "result.json"), result)
    return made


def sweep_of(*values: str) -> RunRecord:
    """A sweep over learning rates; the trial with the value V is the run V."""
    trials = tuple(Trial(run_id=value, settings={"lr": value}) for value in values)
    return RunRecord(
        run_id=SWEEP, state="running", started=now(), parameters={"recipe": "tiny"}, trials=trials
    )


def test_the_best_comes_first_and_what_failed_is_a_row_with_its_cause(store: Store) -> None:
    record(store, "1", 0.5)
    record(store, "2", cause=Cause.OUT_OF_MEMORY, stopped=Cause.OUT_OF_MEMORY)
    record(store, "3", 0.7)
    record(store, "4", 0.9, Cause.BELOW_GATE)
    found = compare(store, sweep_of("1", "2", "3", "4", "5"))
    assert [row.run_id for row in found.rows] == ["3", "1", "4", "2", "5"]
    assert found.best == "3"
    assert [row.how_it_stands for row in found.rows] == [
        "", "", "BELOW_GATE", "OUT_OF_MEMORY", "not begun",
    ]  # fmt: skip
    assert found.rows[0].seconds == pytest.approx(10)
    assert found.dollars is None


def test_who_is_at_work_and_who_waits_for_a_score_are_told_apart(store: Store) -> None:
    record(store, "1", seconds=None)
    record(store, "2")
    found = compare(store, sweep_of("1", "2"))
    assert [row.how_it_stands for row in found.rows] == ["running", "not scored yet"]
    assert found.best is None


def test_dice_is_that_of_the_foreground_or_the_mean_over_several_classes(store: Store) -> None:
    record(store, "1", 0.5, dice={"background": 0.9, "person": 0.4})
    record(store, "2", 0.4, dice={"background": 0.9, "cat": 0.4, "dog": None, "cow": 0.2})
    one, several = compare(store, sweep_of("1", "2")).rows
    assert one.dice == 0.4
    assert several.dice == pytest.approx(0.5)


def test_each_trial_has_its_share_of_the_bill_by_its_seconds(store: Store) -> None:
    time = now()
    intents = Intents.load(store, SWEEP)
    intent = Intent(
        kind=Kind.INSTANCE, label=f"voc-train-{SWEEP}-t1", time=time, region="r", plan="p",
        until=time + timedelta(hours=1), dollars_per_hour=2.0,
    )  # fmt: skip
    intents.intend(intent)
    intents.created(intent, Thing(Kind.INSTANCE, 1, intent.label, created=time))
    intents.ended(intent, time + timedelta(minutes=5), "gone")
    record(store, "1", 0.5, seconds=30)
    record(store, "2", 0.4, seconds=10)
    found = compare(store, sweep_of("1", "2", "3"))
    assert found.dollars == 2.0
    assert [row.dollars for row in found.rows] == [1.5, 0.5, None]


def test_a_damaged_line_of_the_journal_costs_a_point_of_the_curve(store: Store) -> None:
    record(store, "1", 0.5)
    lines = [json.dumps({"kind": "epoch", "epoch": n, "miou": n / 10}) for n in (1, 2, 3)]
    lines[1] = lines[1][:9]
    store.put(run_key("1", "metrics.jsonl"), "\n".join(lines).encode())
    (row,) = compare(store, sweep_of("1")).rows
    assert row.curve == ((1.0, 0.1), (3.0, 0.3))


@pytest.mark.parametrize(
    ("said", "over", "unscored"),
    [
        ({"miou": 0.5}, True, False),
        ({}, True, True),  # its controller was killed before it was scored
        ({"cause": Cause.CORRUPT}, True, True),  # it came home harmed
        ({"seconds": None}, False, False),
        ({"cause": Cause.USER_ERROR, "stopped": Cause.USER_ERROR}, True, False),
        ({"cause": Cause.OUT_OF_MEMORY, "stopped": Cause.OUT_OF_MEMORY}, True, False),
        ({"miou": 0.5, "cause": Cause.BELOW_GATE}, True, False),
        ({"cause": Cause.CANCELLED, "stopped": Cause.CANCELLED}, False, False),
        ({"cause": Cause.DEADLINE, "stopped": Cause.DEADLINE}, False, False),
        ({"cause": Cause.AGENT_LOST, "seconds": None}, False, False),
    ],
)
def test_what_would_end_the_same_way_is_not_trained_again(
    store: Store, said: dict[str, Any], over: bool, unscored: bool
) -> None:
    trial = record(store, "1", **said)
    assert is_over(store, trial) == over
    assert is_unscored(store, trial) == unscored
    assert all_over(store, sweep_of("1")) == over
    assert not all_over(store, sweep_of("1", "2"))


def test_what_would_not_come_to_its_end_is_not_begun() -> None:
    must_fit(1, 0)
    must_fit(11, 10)
    for left, quickest in ((0, 0), (-1, 0), (9, 10)):
        with pytest.raises(Failure) as caught:
            must_fit(left, quickest)
        assert caught.value.cause is Cause.DEADLINE


def row(run_id: str, miou: float | None = None, **more: Any) -> Row:
    known = {"run_id": run_id, "settings": {"lr": run_id}, "state": "done", "miou": miou}
    return Row.model_validate(known | more)


def comparison(*rows: Row, best: str | None = None) -> Comparison:
    return Comparison(run_id=SWEEP, recipe="tiny", rows=rows, best=best, dollars=None)


def test_a_sweep_that_ended_early_says_so_with_the_first_cause() -> None:
    late = Failure(Cause.DEADLINE, "No time is left.")
    with pytest.raises(
        Failure, match=rf"2 settings: lr=2 \(not begun\); `voc-train resume {SWEEP}`"
    ) as caught:
        must_be_whole(comparison(row("1", 0.5), row("2", state=None), best="1"), late)
    assert caught.value.cause is Cause.DEADLINE


def test_what_is_missing_is_named_but_not_endlessly() -> None:
    lost = [row(str(n), state="failed", cause=Cause.STALLED, message="Lost.") for n in range(9)]
    with pytest.raises(Failure, match=r"^Lost\. .*lr=4 \(STALLED\), 4 others; `voc") as caught:
        must_be_whole(comparison(row("10", 0.5), *lost, best="10"), None)
    assert caught.value.cause is Cause.STALLED


def test_of_results_a_sweep_fails_only_where_no_setting_is_good() -> None:
    failed = row("2", cause=Cause.USER_ERROR, message="It diverged.")
    must_be_whole(comparison(row("1", 0.5), failed, best="1"), None)
    with pytest.raises(Failure, match="lr=2: It diverged") as caught:
        must_be_whole(comparison(failed), None)
    assert caught.value.cause is Cause.USER_ERROR


def test_the_report_opens_offline_and_its_names_are_text() -> None:
    failed = row("2", cause=Cause.USER_ERROR, message="<b>bad</b>", settings={"lr": "<i>2</i>"})
    shown = comparison(row("1", 0.512345, dice=0.25, seconds=12.4), failed, best="1")
    html = render(shown, b"png")
    assert "0.5123" in html
    assert "0.2500" in html
    assert "USER_ERROR" in html
    assert "<b>" not in html
    assert "<i>" not in html
    assert "default-src 'none'" in html
    assert "http" not in html.replace("http-equiv", "")


@pytest.mark.parametrize("keys", [("lr",), ("lr", "batch_size"), ("lr", "batch_size", "seed")])
@pytest.mark.parametrize("scored", [True, False])
def test_the_plot_draws_any_grid(keys: tuple[str, ...], scored: bool) -> None:
    rows = [
        row(
            str(n),
            n / 20 if scored else None,
            settings={key: str(n >> place & 1) for place, key in enumerate(keys)},
            curve=((1.0, 0.1), (2.0, n / 20)) if scored else (),
        )
        for n in range(2 ** len(keys))
    ]
    picture = PIL.Image.open(io.BytesIO(plot_png(comparison(*rows, best=None))))
    assert picture.size == (1800, 720)
