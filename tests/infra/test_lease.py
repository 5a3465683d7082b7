"""What may be rented for how much: whole hours, absolute deadlines."""

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.failure import Cause, Failure
from infra.lease import REAPED, TEAR_DOWN, Patience, billed_hours, lease, seconds_to_work

_NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("minutes", "hours"), [(0, 1), (1, 1), (60, 1), (60.01, 2), (119, 2), (120, 2), (1441, 25)]
)
def test_every_begun_hour_is_billed(minutes: float, hours: int) -> None:
    assert billed_hours(_NOW, _NOW + timedelta(minutes=minutes)) == hours


def test_a_budget_is_a_number_of_whole_hours() -> None:
    right = lease(_NOW, 0.52, 2.0, spent=0, most_hours=24)
    assert (right.hours, right.dollars) == (3, 1.56)
    # Who looks every five minutes deletes it within the third hour even so.
    assert right.until == _NOW + timedelta(hours=3) - REAPED
    assert billed_hours(_NOW, right.until + timedelta(minutes=5)) == 3
    assert seconds_to_work(right.until, _NOW) == (right.until - _NOW - TEAR_DOWN).total_seconds()


def test_a_cents_rounding_costs_no_hour() -> None:
    assert lease(_NOW, 0.52, 1.56, spent=0, most_hours=24).hours == 3


def test_earlier_attempts_count() -> None:
    assert lease(_NOW, 1.0, 3.0, spent=2.0, most_hours=24).hours == 1
    with pytest.raises(Failure, match=r"\$0\.50 left of it") as caught:
        lease(_NOW, 1.0, 3.0, spent=2.5, most_hours=24)
    assert caught.value.cause is Cause.BUDGET


def test_no_more_hours_than_can_be_used() -> None:
    assert lease(_NOW, 0.5, 1000, spent=0, most_hours=2.5).hours == 3


@pytest.mark.parametrize("price", [0.0, -1.0, math.nan, math.inf])
def test_an_unknown_price_is_refused(price: float) -> None:
    with pytest.raises(Failure, match="not known") as caught:
        lease(_NOW, price, 100, spent=0, most_hours=1)
    assert caught.value.cause is Cause.BUDGET


@given(
    price=st.floats(0.005, 50),
    budget=st.floats(0.01, 500),
    share=st.floats(0, 1),
    most=st.floats(0.1, 800),
)
def test_the_worst_case_is_within_the_budget(
    price: float, budget: float, share: float, most: float
) -> None:
    spent = budget * share
    if budget - spent < price * (1 + 1e-6):
        with pytest.raises(Failure, match="first hour"):
            lease(_NOW, price * (1 + 1e-5), budget, spent=spent, most_hours=most)
        return
    right = lease(_NOW, price, budget, spent=spent, most_hours=most)
    # Even where it is deleted only in the last moment.
    assert (
        billed_hours(_NOW, right.until + timedelta(minutes=5)) * price
        <= (budget - spent) * (1 + 1e-6) + 1e-6
    )
    assert 1 <= right.hours <= math.ceil(most)


def test_a_late_job_is_given_up_while_there_is_time_to_delete_its_machine() -> None:
    assert timedelta(seconds=Patience().late) < TEAR_DOWN
