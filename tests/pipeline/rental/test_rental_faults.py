"""What goes wrong until a rented machine is ready: a cause, a sentence, a receipt, nothing left."""

import pytest

from infra.failure import Cause, Failure
from infra.linode import Linode
from infra.linode.api import Timeouts
from infra.simulator.faults import Effect
from infra.simulator.machine import MachineFault
from rentals import Account, Impatient, Renter, fails, stops


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


@pytest.mark.parametrize("effect", [Effect.ACTED_502, Effect.ACTED_SILENT])
@pytest.mark.parametrize("path", ["/linode/instances", "/networking/firewalls"])
def test_a_creation_without_an_answer_is_found_and_not_repeated(
    renter: Renter, account: Account, monkeypatch: pytest.MonkeyPatch, path: str, effect: Effect
) -> None:
    defaults = Linode.__init__.__defaults__
    assert defaults
    hasty = (*defaults[:-1], Timeouts(read=2))
    monkeypatch.setattr(Linode.__init__, "__defaults__", hasty)
    account.faults.add(effect, method="POST", path=path, times=1)
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
    assert not [fault for fault in account.faults.standing() if fault["times"]], (
        "a fault did not happen"
    )


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
def test_two_set_ups_that_fail_show_line_and_log(
    renter: Renter, account: Account, ill: MachineFault, words: str
) -> None:
    account.ills = (ill,)
    account.programs = {"sleep": ""}  # between two attempts of a command
    said = fails(renter, Cause.SETUP_FAILED)
    assert "in line " in said
    assert words in "\n".join([said, *renter.listener.lines])
    assert len(account.bill()) == 2


def test_a_set_up_that_fails_is_paid_and_another_machine_serves(
    renter: Renter, account: Account
) -> None:
    account.ills = (MachineFault.APT_FAILS,)
    account.programs = {"sleep": ""}

    def heal() -> None:
        account.ills = ()

    renter.listener.when("another one tried", heal)
    stops(renter, "is ready at")
    assert len(account.bill()) == 2
    assert regions(renter)[0] != regions(renter)[1]


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
