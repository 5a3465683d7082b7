"""What runs cost, as they noted it and as a simulated provider bills it, in the same months."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.linode import Linode
from infra.ownership import label, tags
from infra.provider import InstanceOrder, VolumeOrder
from infra.rental import Rental
from infra.simulator import Simulator
from infra.stores import Store
from pipeline.bills import Bill, print_bills, read_bills
from spending import PRICE, CountingStore, rented
from stepped_clock import SteppedDays

LATE = datetime(2026, 11, 30, 22, 30, tzinfo=UTC)  # 90 minutes before December
HOUR = 3600.0
FIRST, SECOND = "261130-aaaaa", "261201-bbbbb"


@pytest.fixture
def clock() -> SteppedDays:
    return SteppedDays(start=LATE.timestamp())


@pytest.fixture
def simulator(
    tmp_path: Path, clock: SteppedDays, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Simulator]:
    with Simulator(tmp_path / "linode", clock=clock, machines=False) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        yield simulator


def rent(store: Store, clock: SteppedDays, run_id: str, *, hours: float, leave: bool) -> None:
    """A machine and a Volume as a run rents them, deleted after so many hours."""
    rental = Rental(Linode.from_environment(clock), store, run_id, clock=clock)
    until = clock.now() + timedelta(hours=9)
    own = tags(run_id, until)
    machine = InstanceOrder(
        label=label(run_id, "t"),
        tags=own,
        plan="g2-gpu-rtx4000a1-s",
        region="us-ord",
        authorized_key="ssh-ed25519 AAAA a",
        user_data="#cloud-config\n",
        firewall=-1,
    )
    volume = VolumeOrder(label(run_id, "v"), own, "us-ord", 20)
    rental.create(machine, price=PRICE, until=until)
    rental.create(volume, price=0.003, until=until)
    clock.sleep(hours * HOUR)
    if not leave:
        rental.tear_down()


@pytest.fixture
def two_runs(store: Store, clock: SteppedDays, simulator: Simulator) -> Store:
    """One over the month's end, and one that goes on; and a machine of somebody else's."""
    stranger = VolumeOrder("data", (), "us-ord", 100)
    Linode.from_environment(clock).create(stranger)
    rent(store, clock, FIRST, hours=2.25, leave=False)
    rent(store, clock, SECOND, hours=1.25, leave=True)
    return store


def test_by_month_the_invoices_agree_with_the_notes(two_runs: Store, clock: SteppedDays) -> None:
    november, december = read_bills(two_runs, clock, "month").bills
    in_november = 2 * (PRICE + 0.003)
    assert november == Bill("2026-11", pytest.approx(in_november), pytest.approx(in_november), True)
    assert december == Bill(
        "2026-12",
        pytest.approx(3 * (PRICE + 0.003)),
        0.0,
        False,
        pytest.approx(PRICE + 0.003),
    )


def test_by_run_a_part_may_be_invoiced(two_runs: Store, clock: SteppedDays) -> None:
    first, second = read_bills(two_runs, clock, "run").bills
    assert (first.name, first.invoiced, second.name, second.invoiced) == (
        FIRST, False, SECOND, False,
    )  # fmt: skip
    assert first.estimated == pytest.approx(3 * (PRICE + 0.003))
    assert first.billed == pytest.approx(2 * (PRICE + 0.003))
    assert (first.hourly, second.billed) == (0, 0)

    clock.sleep(40 * 24 * HOUR)
    first, second = read_bills(two_runs, clock, "run").bills
    assert first.invoiced
    assert first.billed == pytest.approx(first.estimated)
    assert not second.invoiced  # what it left behind costs to this day
    by_month = read_bills(two_runs, clock, "month").bills
    assert [bill.hourly > 0 for bill in by_month] == [False, False, True]


def test_one_month_alone(two_runs: Store, clock: SteppedDays) -> None:
    (first,) = read_bills(two_runs, clock, "run", "2026-11").bills
    assert (first.name, first.invoiced) == (FIRST, True)
    assert first.estimated == first.billed == pytest.approx(2 * (PRICE + 0.003))
    assert [bill.name for bill in read_bills(two_runs, clock, "run", "2026-12").bills] == [
        FIRST,
        SECOND,
    ]
    assert read_bills(two_runs, clock, "month", "2026-10").bills == ()


def test_what_another_store_had_is_billed_and_not_estimated(
    two_runs: Store, clock: SteppedDays, tmp_path: Path
) -> None:
    elsewhere = Store.open(str(tmp_path / "elsewhere"))
    (bill,) = read_bills(elsewhere, clock, "run", "2026-11").bills
    assert (bill.name, bill.estimated) == (FIRST, None)
    assert bill.billed == pytest.approx(2 * (PRICE + 0.003))


def test_the_table_says_all_that_is_known(
    two_runs: Store,
    clock: SteppedDays,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VOC_TRAIN_MONTHLY_BUDGET", "20")
    bills = read_bills(two_runs, clock, "month")
    print_bills(bills)
    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert said[0] == "month estimated billed difference"
    assert said[1] == "2026-11 1.05 1.05 0.00"
    assert said[2] == "2026-12 1.57* not yet"
    assert "total 2.62 1.05" in said
    assert "* costs still: `voc-train runs` shows which run" in said
    # All that the machine and the Volumes cost since midnight, the stranger's, too.
    assert any(line.startswith(f"Not invoiced yet: ${bills.uninvoiced:.2f}") for line in said)
    assert bills.uninvoiced
    assert bills.uninvoiced > 1.57
    # One hour of the first run's in December, and nine that the second may take.
    assert "Monthly budget: $14.77 of $20.00 is left in 2026-12." in said


def test_without_a_token_there_is_the_estimate(
    store: Store,
    clock: SteppedDays,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("LINODE_TOKEN", raising=False)
    rented(store, FIRST, LATE, hours=1.2)
    bills = read_bills(store, clock, "run")
    assert bills.bills == (Bill(FIRST, pytest.approx(2 * PRICE), None, False),)
    print_bills(bills)
    said = capsys.readouterr().out
    assert "Estimated only: There is no token for Linode" in said
    assert "Not invoiced" not in said


def test_with_a_budget_no_note_is_read_twice(
    store: Store, clock: SteppedDays, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LINODE_TOKEN", raising=False)
    rented(store, FIRST, LATE, hours=1.2)
    requests = []
    for limit in ("", "20"):
        monkeypatch.setenv("VOC_TRAIN_MONTHLY_BUDGET", limit)
        counting = CountingStore.of(store)
        assert bool(read_bills(counting, clock, "run").budget) == bool(limit)
        requests.append(counting.requests)
    assert requests[0] == requests[1]


def test_nothing_rented(
    store: Store, clock: SteppedDays, simulator: Simulator, capsys: pytest.CaptureFixture[str]
) -> None:
    print_bills(read_bills(store, clock, "month"))
    assert "Nothing was rented." in capsys.readouterr().out
