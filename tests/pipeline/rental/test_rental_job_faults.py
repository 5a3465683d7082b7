"""What goes wrong while a job is at work, and with the deletion: nothing is left, or it is told."""

import threading
from contextlib import suppress

import psutil
import pytest

from agents import until
from infra.failure import Cause, Failure
from infra.simulator.faults import Effect
from infra.ssh import Connection
from infra.stores import Store
from rentals import WORKING, Account, Impatient, Renter, inside, kill_agent, stops


@pytest.fixture
def short_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """SSH that is not waited for as long as a real one is."""
    monkeypatch.setitem(Connection.__init__.__kwdefaults__, "timeout", 2.0)
    monkeypatch.setattr("infra.remote._DEAF", 1.0)


def is_missed(renter: Renter) -> None:
    """The job is given up, and what follows is interrupted."""
    renter.listener.interrupt_when("another is rented")
    with pytest.raises(KeyboardInterrupt):
        renter.rent(WORKING)
    assert not renter.receipt.leaked


def test_a_killed_agent_is_missed(renter: Renter, impatient: Impatient) -> None:
    impatient(stall=6)

    renter.listener.when("at work", kill_agent)
    is_missed(renter)


def test_a_machine_that_stands_still_is_given_up(
    renter: Renter, account: Account, impatient: Impatient, short_line: None
) -> None:
    impatient(stall=6)

    def stand_still() -> None:
        account.machine(renter.label).freeze()
        for process in inside():
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    renter.listener.when("at work", stand_still)
    is_missed(renter)


def test_training_needs_no_ssh(renter: Renter, account: Account, short_line: None) -> None:
    renter.listener.when("at work", lambda: account.machine(renter.label).freeze())
    code = "print('at work', flush=True); import time; time.sleep(1); print('done')"
    assert renter.rent(code).exit_code == 0
    assert renter.phases[-1] == "gone"


def test_a_store_that_is_away_for_a_while_holds_nothing_up(
    renter: Renter, account: Account, store: Store
) -> None:
    runs = store.local_path("runs")
    assert runs is not None
    away = runs.with_name("away")

    def come_back() -> None:
        place = account.disk(renter.label) / "root/voc-train" / renter.run.run_id
        until(lambda: " STORE " in (place / "agent.log").read_text())
        runs.unlink()
        away.rename(runs)
        (place / "job/go").touch()

    def leave() -> None:
        runs.rename(away)
        runs.touch()  # so that nobody makes the folder anew
        threading.Thread(target=come_back).start()

    renter.listener.when("at work", leave)
    result = renter.rent(
        "import pathlib, time\n"
        "print('at work', flush=True)\n"
        "while not pathlib.Path('go').exists(): print('more'); time.sleep(0.1)"
    )
    assert result.exit_code == 0


# Deleting


def test_a_deletion_that_fails_is_a_leak_with_its_price(
    renter: Renter, account: Account, leaks: set[str]
) -> None:
    account.faults.add(Effect.DELETE_FAILS, label=renter.label)
    renter.listener.interrupt_when("created: ")
    with pytest.raises(Failure) as caught:
        renter.rent()
    assert caught.value.cause is Cause.LEAKED
    assert caught.value.exit_code == 1
    (line,) = renter.receipt.leaked
    assert f"instance {renter.label} (id {line.id}, $0.52/h)" in str(caught.value)
    leaks.add(renter.label)


def test_a_deletion_that_lingers_is_waited_for(renter: Renter, account: Account) -> None:
    account.faults.add(Effect.DELETE_LINGERS, label=renter.label, seconds=90)
    stops(renter, "created: ")
    (bill,) = account.bill()
    assert bill.gone
    (line,) = [line for line in renter.receipt.lines if line.kind == "instance"]
    assert line.gone
    assert line.gone >= bill.gone


@pytest.mark.parametrize("word", ["booting: running", "gpu_trainer runs", "is ready", "at work"])
def test_ctrl_c_at_any_moment_leaves_nothing(renter: Renter, word: str) -> None:
    stops(renter, word)
    assert renter.phases[-1] == "gone"
