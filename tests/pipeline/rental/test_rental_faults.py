"""What goes wrong with rented machines: a cause, a sentence, a receipt, and nothing left."""

import threading

import pytest

from agents import until
from infra.failure import Cause, Failure
from infra.simulator.faults import Effect
from infra.simulator.machine import MachineFault
from infra.ssh import Connection
from infra.stores import Store
from rentals import Account, Impatient, Renter, inside

WORKING = "print('at work', flush=True); import time; time.sleep(600)"


def fails(renter: Renter, cause: Cause, code: str = "pass", *, gigabytes: float = 0) -> str:
    """Rent in vain; returns the sentence."""
    with pytest.raises(Failure) as caught:
        renter.rent(code, gigabytes=gigabytes)
    assert caught.value.cause is cause, caught.value
    assert not renter.receipt.leaked
    return str(caught.value)


def stops(renter: Renter, word: str) -> None:
    """Rent until a line with that word, and press Ctrl-C."""
    renter.listener.interrupt_when(word)
    with pytest.raises(KeyboardInterrupt):
        renter.rent(WORKING)
    assert not renter.receipt.leaked


def regions(renter: Renter) -> list[str]:
    """Where machines were rented, in order."""
    return [line.region for line in renter.receipt.lines if line.kind == "instance" and line.id]


def test_a_small_job_is_done_and_paid_for(renter: Renter, account: Account) -> None:
    assert renter.rent().cause is None
    assert renter.phases == ["created", "booting", "set-up", "training", "verified", "gone"]
    (bill,) = account.bill()
    assert renter.receipt.dollars == pytest.approx(bill.dollars)


# Creating


def test_where_a_region_has_none_the_next_one_is_asked(renter: Renter, account: Account) -> None:
    account.faults.add(Effect.NO_CAPACITY, region="fr-par")
    stops(renter, "created: ")
    assert regions(renter) == ["jp-osa"]


def test_no_machine_anywhere_costs_nothing(renter: Renter, account: Account) -> None:
    account.faults.add(Effect.NO_CAPACITY)
    said = fails(renter, Cause.NO_CAPACITY)
    assert "--plan" in said
    assert account.bill() == []
    assert renter.receipt.dollars == 0


@pytest.mark.parametrize("path", ["/linode/instances", "/networking/firewalls"])
def test_a_creation_without_an_answer_is_found_and_not_repeated(
    renter: Renter, account: Account, path: str
) -> None:
    account.faults.add(Effect.ACTED_502, method="POST", path=path, times=1)
    stops(renter, "created: ")
    assert len(account.bill()) == 1
    assert any("no clear answer" in line for line in renter.listener.lines)


def test_a_storm_of_refusals_on_every_call_is_weathered(renter: Renter, account: Account) -> None:
    for effect, skip in ((Effect.RATE_LIMITED, 0), (Effect.SERVER_ERROR, 1)):
        for method in ("GET", "DELETE"):
            account.faults.add(effect, method=method, times=2, skip=skip, seconds=3)
    account.faults.add(Effect.RATE_LIMITED, method="POST", times=3, seconds=3)
    account.faults.add(Effect.SERVER_ERROR, path="/linode/instances/*", status=502, times=2)
    stops(renter, "booting: running")
    assert len(account.bill()) == 1
    assert not [fault for fault in account.faults.standing() if fault["times"]], "a fault did not happen"


def test_a_token_that_expires_in_the_middle_leaks_and_says_what(
    renter: Renter, account: Account, leaks: set[str]
) -> None:
    expire = lambda: account.faults.add(Effect.EXPIRED_TOKEN)  # noqa: E731
    renter.listener.when("booting: ", expire)
    with pytest.raises(Failure) as caught:
        renter.rent()
    assert caught.value.cause is Cause.LEAKED
    (instance,) = [line for line in renter.receipt.leaked if line.kind == "instance"]
    assert f"id {instance.id}, $0.52/h" in str(caught.value)
    leaks.update((renter.label, f"voc-train-{renter.run.run_id}-f1"))


# Booting


def test_a_boot_that_never_ends_is_paid_and_another_machine_serves(
    renter: Renter, account: Account
) -> None:
    account.faults.add(Effect.BOOT_NEVER_ENDS, times=1)
    stops(renter, "booting: running")
    first, second = account.bill()
    assert first.gone
    assert second.created >= first.gone
    assert renter.receipt.dollars == pytest.approx(first.dollars + second.dollars)


def test_two_boots_that_never_end_are_a_failure(renter: Renter, account: Account) -> None:
    account.faults.add(Effect.BOOT_NEVER_ENDS)
    assert "did not boot" in fails(renter, Cause.BOOT_TIMEOUT)
    assert len(account.bill()) == 2


def test_a_machine_that_vanishes_while_it_boots_is_replaced(
    renter: Renter, account: Account
) -> None:
    vanish = lambda: account.faults.add(Effect.VANISH, label=renter.label, times=1)  # noqa: E731
    renter.listener.when("booting: ", vanish)
    stops(renter, "booting: running")
    assert regions(renter)[1:] == ["jp-osa"]


def test_an_impostor_is_told_nothing(
    renter: Renter, account: Account, impatient: Impatient
) -> None:
    impatient(login=6)
    account.faults.add(Effect.WRONG_HOST_KEY)
    fails(renter, Cause.HOST_KEY)
    assert "set-up" not in renter.phases


# Setting up


@pytest.mark.parametrize(
    ("ill", "words"),
    [
        (MachineFault.APT_FAILS, "503  Service Unavailable"),
        (MachineFault.DRIVER, "nvidia-smi"),
        (MachineFault.PIP, "No matching distribution"),
    ],
)
def test_a_set_up_that_fails_shows_line_and_log(
    renter: Renter, account: Account, ill: MachineFault, words: str
) -> None:
    account.ills = (ill,)
    account.programs = {"sleep": ""}  # between two attempts of a command
    said = fails(renter, Cause.SETUP_FAILED)
    assert "in line " in said
    assert words in "\n".join([said, *renter.listener.lines])


def test_a_disk_too_small_for_the_data_is_refused_before_the_training(renter: Renter) -> None:
    said = fails(renter, Cause.BAD_INPUT, gigabytes=1e6)
    assert "--plan" in said
    assert "1000001.0 GB" in said


def test_a_clock_that_is_wrong_is_noticed(renter: Renter, account: Account) -> None:
    account.programs = {"date": '[ "$1" = +%s ] && echo 86400 || /usr/bin/date "$@"'}
    assert "clock" in fails(renter, Cause.SETUP_FAILED)


def test_a_host_key_that_changes_after_the_set_up_stops_the_run(
    renter: Renter, account: Account
) -> None:
    renter.listener.when("is ready at", lambda: account.machine(renter.label).forge_host_key())
    fails(renter, Cause.HOST_KEY)
    assert renter.run.store.get(f"runs/{renter.run.run_id}/heartbeat.json") is None


# Training


def test_a_machine_that_vanishes_at_work_is_noticed(renter: Renter, account: Account) -> None:
    vanish = lambda: account.faults.add(Effect.VANISH, label=renter.label, times=1)  # noqa: E731
    renter.listener.when("at work", vanish)
    fails(renter, Cause.AGENT_LOST, WORKING)
    (bill,) = account.bill()
    assert renter.receipt.dollars == pytest.approx(bill.dollars)


def test_a_killed_agent_is_missed(renter: Renter, impatient: Impatient) -> None:
    impatient(stall=8)

    def kill() -> None:
        for process in inside():
            if "infra.agent" in process.cmdline():
                process.kill()

    renter.listener.when("at work", kill)
    fails(renter, Cause.STALLED, WORKING)


def test_a_machine_that_stands_still_is_given_up(
    renter: Renter, impatient: Impatient, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(stall=8)
    monkeypatch.setitem(Connection.__init__.__kwdefaults__, "timeout", 2.0)
    monkeypatch.setattr("infra.remote._DEAF", 1.0)

    def stand_still() -> None:
        for process in inside():
            process.suspend()

    renter.listener.when("at work", stand_still)
    assert "Nothing was heard" in fails(renter, Cause.STALLED, WORKING)


def test_training_needs_no_ssh(
    renter: Renter, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Connection.__init__.__kwdefaults__, "timeout", 2.0)
    monkeypatch.setattr("infra.remote._DEAF", 1.0)
    renter.listener.when("at work", lambda: account.machine(renter.label).freeze())
    code = "print('at work', flush=True); import time; time.sleep(3); print('done')"
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
    code = "import pathlib, time\nprint('at work', flush=True)\n"
    result = renter.rent(f"{code}while not pathlib.Path('go').exists(): time.sleep(0.05)")
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
