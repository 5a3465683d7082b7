"""What Linode charged, read from its invoices."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from infra.linode import Linode
from infra.linode.invoices import read_statement
from infra.ownership import runs_in
from infra.provider import InstanceOrder, Unauthorised, Unclear, VolumeOrder
from infra.simulator import Simulator
from servers.scripted import Reply, ScriptedServer
from stepped_clock import SteppedDays

LATE = datetime(2026, 11, 30, 22, 30, tzinfo=UTC)
RUN = "261130-4k2ra"
MACHINE = InstanceOrder(
    label=f"voc-train-{RUN}-t1",
    tags=("voc-train",),
    plan="g2-gpu-rtx4000a1-s",
    region="us-ord",
    authorized_key="ssh-ed25519 AAAA a",
    user_data="#cloud-config\n",
    firewall=-1,
)
ITEM = {"label": "Linode", "from": "2026-11-01T00:00:00", "amount": 0.5}
ACCOUNT = {"balance_uninvoiced": 1.0}


@pytest.fixture
def clock() -> SteppedDays:
    return SteppedDays(start=LATE.timestamp())


@pytest.fixture
def simulator(tmp_path: Path, clock: SteppedDays) -> Iterator[Simulator]:
    with Simulator(tmp_path, clock=clock, machines=False) as simulator:
        yield simulator


@pytest.fixture
def linode(simulator: Simulator, clock: SteppedDays) -> Linode:
    return Linode(simulator.token, simulator.url, clock=clock)


def test_charges_are_told_by_month_and_run(linode: Linode, clock: SteppedDays) -> None:
    made = linode.create(MACHINE)
    clock.sleep(2.9 * 3600)
    linode.delete(made.kind, made.id)  # type: ignore[union-attr]
    clock.sleep(600)
    statement = linode.statement(LATE)
    (charge,) = statement.charges
    assert runs_in(charge.text) == {RUN}
    assert (charge.begun, charge.dollars) == (LATE, 1.04)
    assert statement.invoiced == datetime(2026, 12, 1, 0, 1, 1, tzinfo=UTC)
    assert statement.uninvoiced == 0.52

    clock.sleep(31 * 24 * 3600)
    statement = linode.statement(LATE)
    assert [charge.dollars for charge in statement.charges] == [1.04, 0.52]
    assert statement.uninvoiced == 0
    assert [one.dollars for one in linode.statement(LATE + timedelta(days=2)).charges] == [0.52]


def test_before_the_first_invoice_there_is_the_balance(linode: Linode) -> None:
    linode.create(MACHINE)
    statement = linode.statement(LATE)
    assert (statement.charges, statement.invoiced, statement.uninvoiced) == ((), None, 0.52)


def test_all_pages_of_an_invoice_are_read(linode: Linode, clock: SteppedDays) -> None:
    for number in range(501):
        linode.create(VolumeOrder(f"v{number}", ("voc-train",), "us-ord", 10))
    clock.sleep(24 * 3600)
    assert len(linode.statement(LATE).charges) == 501


def test_a_token_that_may_not_see_the_account(linode: Linode, simulator: Simulator) -> None:
    simulator.faults.add("missing_scope", scope="account:*")
    with pytest.raises(Unauthorised, match="account:read_only"):
        linode.statement(LATE)


@pytest.mark.parametrize(
    "account", [None, {}, {"balance_uninvoiced": None}, {"balance_uninvoiced": float("nan")}, []]
)
def test_an_answer_without_a_balance_says_nothing(account: Any) -> None:
    with pytest.raises(Unclear):
        read_statement([], [], account)


@pytest.mark.parametrize(
    "item",
    [
        {},
        ITEM | {"amount": "much"},
        ITEM | {"amount": float("inf")},
        ITEM | {"from": "soon"},
        {"label": "Linode"},
    ],
)
def test_an_item_that_makes_no_sense_is_not_left_out(item: Any) -> None:
    with pytest.raises(Unclear):
        read_statement([{"id": 1, "date": "2026-12-01T00:00:00"}], [[ITEM, item]], ACCOUNT)


def test_a_credit_without_a_time_counts_when_it_was_invoiced() -> None:
    item = ITEM | {"from": None, "amount": -2}
    statement = read_statement([{"id": 1, "date": "2026-12-01T00:00:00"}], [[item]], ACCOUNT)
    assert statement.charges[0].begun == datetime(2026, 12, 1, tzinfo=UTC)
    assert statement.charges[0].dollars == -2


def test_what_is_asked_for_names_the_date(clock: SteppedDays) -> None:
    empty = {"data": [], "page": 1, "pages": 1, "results": 0}
    with ScriptedServer() as server:
        server.on("GET", "/account/invoices", Reply(body=empty))
        server.on("GET", "/account", Reply(body=ACCOUNT))
        Linode("token", server.url, clock=clock).statement(LATE.astimezone())
        (asked,) = server.asked("GET", "/account/invoices")
    assert asked.filter == {"date": {"+gte": "2026-11-30T22:30:00"}}


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        (f"RTX4000 Ada x1 Small - voc-train-{RUN}-t1 (97180053)", {RUN}),
        (f"Storage Volume - voc-train-{RUN}-v12", {RUN}),
        (f"voc-train-{RUN}-t1.", {RUN}),
        (f"Linode 2GB - my-voc-train-{RUN}-t1 (1)", set()),
        (f"Linode 2GB - voc-train-{RUN}-t1-copy (1)", set()),
        (f"Linode 2GB - voc-train-{RUN}-t1.old (1)", set()),
        ("Linode 2GB - voc-train (1)", set()),
    ],
)
def test_a_run_is_known_by_its_label_wherever_it_stands(text: str, runs: set[str]) -> None:
    assert runs_in(text) == runs
