"""A machine that is lost is replaced, and the next one goes on from what it left in the store."""

from datetime import timedelta

import pytest

from infra.failure import Cause, Failure
from infra.linode import Linode
from infra.ownership import tags
from infra.provider import InstanceOrder, NoCapacity
from infra.rental import Rental
from infra.renting import open_firewall
from infra.simulator.faults import Effect
from infra.ssh.keys import KeyPair
from infra.stores import Store
from pipeline.machines import preparing_place
from rentals import WORKING, Account, Impatient, Renter, fails, kill_agent

# Counts to 3 with a checkpoint at 2, whose digest is what a real one's is: that of its blob.
COUNTING = """
import hashlib, json, pathlib, time
step = pathlib.Path("out/checkpoints/00000002")
if (step / "manifest.json").exists():
    print("goes on from", (step / "blob").read_text(), flush=True)
else:
    step.mkdir(parents=True)
    (step / "blob").write_text("2")
    (step / "manifest.json").write_text(json.dumps({"sha256": hashlib.sha256(b"2").hexdigest()}))
    print("at two", flush=True)
    time.sleep(600)
print("done", flush=True)
"""


def test_the_next_machine_goes_on_where_the_lost_one_was(renter: Renter, account: Account) -> None:
    def vanish() -> None:
        account.faults.add(Effect.VANISH, label=renter.label, times=1)

    renter.listener.when("at two", vanish)
    assert renter.rent(COUNTING).cause is None
    lines = renter.listener.lines
    assert lines.count("at two") == 1
    assert lines.index("goes on from 2") < lines.index("done")
    bills = account.bill()
    assert [bill.label[-2:] for bill in bills] == ["t1", "t2"]
    assert renter.receipt.dollars == pytest.approx(sum(bill.dollars for bill in bills))
    first, second = [line.region for line in renter.receipt.lines if line.kind == "instance"]
    assert first != second


def test_not_for_ever(renter: Renter, account: Account) -> None:
    def vanish() -> None:
        account.faults.add(Effect.VANISH, label="voc-train-*", times=1)
        renter.listener.when("at work", vanish)

    renter.listener.when("at work", vanish)
    fails(renter, Cause.AGENT_LOST, WORKING)
    assert [bill.label[-2:] for bill in account.bill()] == ["t1", "t2", "t3"]


def test_no_other_is_rented_while_the_lost_one_may_be_there(
    renter: Renter, account: Account, impatient: Impatient, leaks: set[str]
) -> None:
    impatient(stall=6, deletion=20)

    def lose() -> None:
        account.faults.add(Effect.DELETE_FAILS, label=renter.label)
        kill_agent()

    renter.listener.when("at two", lose)
    with pytest.raises(Failure) as caught:
        renter.rent(COUNTING)
    assert caught.value.cause is Cause.LEAKED
    leaks.add(renter.label)
    assert [bill.label for bill in account.bill()] == [renter.label]


def test_what_prepared_for_an_earlier_controller_is_gone_before_another_is_rented(
    renter: Renter, account: Account, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Renter(store, prepare_on="linode").run
    provider = Linode.from_environment(account.clock)
    rental = Rental(provider, store, run.run_id, clock=account.clock, say=lambda _: None)
    firewall = open_firewall(rental, ("127.0.0.0/8",), hours=1)
    until = account.clock.now() + timedelta(hours=5)
    order = InstanceOrder(
        label=rental.next_label("p"),
        tags=tags(run.run_id, until),
        plan="g6-standard-2",
        region="us-ord",
        authorized_key=KeyPair.generate().public,
        user_data="#cloud-config\n",
        firewall=firewall.id,
    )
    rental.create(order, price=0.036, until=until)
    there: list[str] = []

    def rent(*_: object) -> None:
        there.extend(thing.kind for thing in account.left())
        raise NoCapacity("None is free.")

    monkeypatch.setattr("pipeline.tenancy.rent", rent)
    with pytest.raises(NoCapacity), preparing_place(run):
        pass
    assert there == ["firewall", "firewall"]


def test_the_sign_of_life_of_a_lost_machine_is_not_taken_for_the_next_ones(
    renter: Renter, store: Store
) -> None:
    said: list[bool] = []

    def look() -> None:
        said.append(store.size(f"runs/{renter.run.run_id}/heartbeat.json") is not None)

    store.put(f"runs/{renter.run.run_id}/heartbeat.json", b"{}")
    renter.listener.when("booting", look)
    assert renter.rent().cause is None
    assert said == [False]
