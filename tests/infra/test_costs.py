"""What a run has cost, in which month, and what it may cost yet."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.costs import Costs, month_after, month_begin, month_of, read_costs
from infra.provider import Kind
from infra.reaper_report import Found, ReaperReport
from infra.stores import Store
from spending import PRICE, CountingStore, rented

RUN = "261121-4k2ra"
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
LATE = datetime(2026, 11, 30, 23, 30, tzinfo=UTC)  # half an hour before December
HOUR = timedelta(hours=1)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def costs(store: Store, *, ended: bool = False, looked: ReaperReport | None = None) -> Costs:
    found = read_costs(store, RUN, ended=ended, looked=looked)
    assert found
    return found


def look(time: datetime, *labels: str, unseen: tuple[Kind, ...] = ()) -> ReaperReport:
    """A reaper's, that saw machines with these labels."""
    found = tuple(
        Found(
            kind=Kind.INSTANCE,
            id=1,
            label=label,
            run_id=RUN,
            until=NOON,
            dollars_per_hour=PRICE,
            state="lingers",
        )
        for label in labels
    )
    return ReaperReport(time=time, deletes=True, found=found, unseen=dict.fromkeys(unseen, "no"))


def test_months_have_names_and_ends() -> None:
    assert month_of(LATE.astimezone()) == "2026-11"
    assert month_begin("2026-11") == datetime(2026, 11, 1, tzinfo=UTC)
    assert month_after("2026-12") == datetime(2027, 1, 1, tzinfo=UTC)
    assert month_after("2026-02") == datetime(2026, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize("with_receipt", [True, False])
@pytest.mark.parametrize(
    ("created", "hours", "by_month"),
    [
        (NOON, 0.1, {"2026-11": 1}),
        (NOON, 2.5, {"2026-11": 3}),
        (LATE, 0.25, {"2026-11": 1}),
        (LATE, 1.25, {"2026-11": 1, "2026-12": 1}),  # its second hour begins in December
        (LATE, 0.75, {"2026-11": 1}),  # which ends in December
        (LATE, 40 * 24, {"2026-11": 1, "2026-12": 744, "2027-01": 215}),
        (month_begin("2026-12"), 1, {"2026-12": 1}),
    ],
)
def test_every_hour_counts_to_the_month_in_which_it_begins(
    store: Store, with_receipt: bool, created: datetime, hours: float, by_month: dict[str, int]
) -> None:
    rented(store, RUN, created, hours=hours, with_receipt=with_receipt)
    found, now = costs(store, ended=with_receipt), created + timedelta(days=90)
    assert found.months(now) == by_month.keys()
    for month, paid in by_month.items():
        assert found.dollars(now, month) == pytest.approx(paid * PRICE)
    assert found.dollars(now) == pytest.approx(sum(by_month.values()) * PRICE)
    assert found.there == ()


def test_what_is_there_counts_until_now_and_at_most_until_its_deadline(store: Store) -> None:
    machine = rented(store, RUN, LATE, lease=5)
    found, now = costs(store), LATE + 1.5 * HOUR
    assert [rent.label for rent in found.there] == [machine.label]
    assert found.dollars(now) == pytest.approx(2 * PRICE)
    assert found.at_most(now, month_begin("2026-11")) == pytest.approx(5 * PRICE)
    assert found.at_most(now, month_begin("2026-12")) == pytest.approx(4 * PRICE)
    late = LATE + 7 * HOUR  # nobody has deleted it
    assert found.at_most(late, month_begin("2026-11")) == pytest.approx(7 * PRICE)


def test_what_was_never_answered_may_cost_but_has_not(store: Store) -> None:
    rented(store, RUN, None, intended=NOON, lease=3)
    found = costs(store)
    assert found.dollars(NOON + HOUR) == 0
    assert found.months(NOON + HOUR) == set()
    assert found.at_most(NOON + HOUR, NOON) == pytest.approx(3 * PRICE)


def test_what_was_not_created_costs_nothing(store: Store) -> None:
    rented(store, RUN, None, intended=NOON, hours=1)
    assert read_costs(store, RUN, ended=False) is None
    rented(store, RUN, None, intended=NOON, hours=1, with_receipt=True)
    assert read_costs(store, RUN, ended=True) is None


def test_what_a_reaper_does_not_see_any_more_is_gone(store: Store) -> None:
    machine = rented(store, RUN, NOON, lease=3)
    now = NOON + 10 * HOUR
    for looked, hours in ((look(now), 3), (look(NOON + 1.5 * HOUR), 2)):
        gone = costs(store, looked=looked)
        assert gone.there == ()
        assert gone.dollars(now) == gone.at_most(now, NOON) == pytest.approx(hours * PRICE)
    for looked in (
        None,
        look(NOON + timedelta(minutes=5)),  # too early to tell
        look(now, machine.label),
        look(now, unseen=(Kind.INSTANCE,)),
    ):
        there = costs(store, looked=looked)
        assert [rent.label for rent in there.there] == [machine.label], looked
        assert there.dollars(now) == pytest.approx(10 * PRICE)


def test_what_was_never_answered_may_show_until_its_deadline(store: Store) -> None:
    rented(store, RUN, None, intended=NOON, lease=3)
    assert costs(store, looked=look(NOON + HOUR)).at_most(NOON, NOON) == pytest.approx(3 * PRICE)
    assert read_costs(store, RUN, ended=False, looked=look(NOON + 4 * HOUR)) is None


def test_a_receipt_is_enough_unless_something_was_left(store: Store) -> None:
    counting = CountingStore.of(store)
    rented(store, RUN, NOON, hours=2, with_receipt=True)
    assert costs(counting, ended=True).dollars(NOON) == pytest.approx(2 * PRICE)
    assert counting.requests == 2  # the receipt, and what was intended

    rented(store, RUN, NOON, number=2, with_receipt=True)  # which a reaper deletes later
    rented(store, RUN, NOON, number=2, hours=1)
    later = costs(store, ended=True)
    assert later.there == ()
    assert later.dollars(NOON) == pytest.approx(3 * PRICE)


@pytest.mark.parametrize("hours", [None, 1], ids=["there", "deleted by a reaper"])
def test_a_receipt_says_nothing_of_what_was_rented_after_it(
    store: Store, hours: float | None
) -> None:
    rented(store, RUN, NOON, hours=2, with_receipt=True)
    later = rented(store, RUN, NOON + 3 * HOUR, number=2, hours=hours)  # its controller was killed
    found = costs(store, ended=True)
    assert [rent.label for rent in found.there] == ([] if hours else [later.label])
    assert found.dollars(NOON + 4 * HOUR) == pytest.approx(3 * PRICE)


def test_a_receipt_is_enough_though_an_offer_had_no_machine_free(store: Store) -> None:
    rented(store, RUN, None, intended=NOON, hours=0.1)
    rented(store, RUN, NOON, hours=2, number=2, with_receipt=True)
    counting = CountingStore.of(store)
    assert costs(counting, ended=True).dollars(NOON) == pytest.approx(2 * PRICE)
    assert counting.requests == 2


def test_a_damaged_note_is_not_taken_for_a_gift(store: Store) -> None:
    machine = rented(store, RUN, NOON, hours=1)
    key = f"runs/{RUN}/intents/instance-{machine.label}.json"
    store.put(key, b"{")
    assert costs(store).unknown.keys() == {key}
