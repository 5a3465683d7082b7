"""What of a month's budget is taken, and what it therefore refuses."""

from datetime import UTC, datetime, timedelta

import pytest

from infra.failure import Cause, Failure
from infra.reaper_report import REPORT, ReaperReport
from infra.stores import Store
from pipeline.monthly_budget import MonthlyBudget, monthly_budget
from spending import PRICE, record, rented
from stepped_clock import SteppedDays

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def twenty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOC_TRAIN_MONTHLY_BUDGET", "20")


def budget(store: Store, now: datetime = NOON) -> MonthlyBudget:
    found = monthly_budget(store, SteppedDays(start=now.timestamp()))
    assert found
    return found


def test_all_runs_of_the_month_count_whatever_became_of_them(store: Store) -> None:
    assert budget(store) == MonthlyBudget("2026-11", 20, 0)
    record(store, "261103-done1", "done")
    rented(store, "261103-done1", NOON - 18 * 24 * HOUR, hours=2, with_receipt=True)
    record(store, "261104-fail1", "failed", cause=Cause.STALLED)
    rented(store, "261104-fail1", NOON - 17 * 24 * HOUR, hours=1, with_receipt=True)
    rented(store, "261105-smoke", NOON - 16 * 24 * HOUR, hours=1)  # which has no record
    record(store, "261105-local", "done", parameters={"machine": "local"})
    assert budget(store).taken == pytest.approx(4 * PRICE)

    record(store, "261121-going")
    rented(store, "261121-going", NOON - 1.5 * HOUR, lease=9)  # nine hours at the most
    rented(store, "261121-going", None, intended=NOON, lease=2, number=2)  # never answered
    assert budget(store).taken == pytest.approx((4 + 9 + 2) * PRICE)
    assert budget(store).left == pytest.approx(20 - 15 * PRICE)


def test_what_last_month_cost_is_over_and_what_it_left_is_not(store: Store) -> None:
    record(store, "261030-aaaaa", "done")
    rented(store, "261030-aaaaa", datetime(2026, 10, 30, tzinfo=UTC), hours=20, with_receipt=True)
    assert budget(store).taken == 0
    rented(store, "261031-bbbbb", datetime(2026, 10, 31, 22, tzinfo=UTC), lease=9)
    early = datetime(2026, 11, 1, 0, 30, tzinfo=UTC)
    assert budget(store, early).taken == pytest.approx(7 * PRICE)
    before = early - HOUR  # in October it counts until its deadline, in whichever month that is
    assert budget(store, before).taken == pytest.approx((20 + 9) * PRICE)


def test_what_a_reaper_ended_does_not_go_on_costing(store: Store) -> None:
    rented(store, "261120-aaaaa", NOON - 24 * HOUR, lease=3)
    assert budget(store).taken == pytest.approx(24 * PRICE)
    store.write(REPORT, ReaperReport(time=NOON, deletes=True))
    assert budget(store).taken == pytest.approx(3 * PRICE)


@pytest.mark.parametrize(
    ("taken", "worst", "fits"),
    [(0, 20, True), (0, 20.01, False), (15.4, 4.6, True), (15.4, 4.61, False), (25, 0.01, False)],
)
def test_it_pays_to_the_cent(taken: float, worst: float, fits: bool) -> None:
    month = MonthlyBudget("2026-11", 20, taken)
    if fits:
        month.must_pay_for(worst)
        return
    with pytest.raises(Failure) as refused:
        month.must_pay_for(worst)
    assert refused.value.cause is Cause.BUDGET
    left = f"${max(0, 20 - taken):.2f} is left"
    for words in (f"${worst:.2f}", "$20.00", left, f"${taken:.2f}", "--budget", "voc-train bills"):
        assert words in str(refused.value)


@pytest.mark.parametrize("said", ["much", "-1", "nan", "inf", "$20", "20 USD"])
def test_what_is_no_amount_is_refused(
    store: Store, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOC_TRAIN_MONTHLY_BUDGET", said)
    with pytest.raises(Failure, match="VOC_TRAIN_MONTHLY_BUDGET is .* like 50") as refused:
        budget(store)
    assert refused.value.cause is Cause.BAD_INPUT


@pytest.mark.parametrize("said", ["", " "])
def test_without_one_nothing_is_asked(
    store: Store, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOC_TRAIN_MONTHLY_BUDGET", said)
    assert monthly_budget(store, SteppedDays()) is None


def test_a_price_that_is_lost_is_not_taken_for_nothing(store: Store) -> None:
    now = datetime.now(UTC)
    machine = rented(store, "261121-going", now, hours=1)
    key = f"runs/261121-going/intents/instance-{machine.label}.json"
    store.put(key, b"{")
    with pytest.raises(Failure, match=key) as refused:
        budget(store, now)
    assert refused.value.cause is Cause.CORRUPT
    assert budget(store, now + timedelta(days=32)).taken == 0  # by then it is another month's
