"""Whoever stops or kills `voc-train run linode`, as a real process, pays for nothing afterwards."""

import os
import signal
import subprocess
from pathlib import Path

import psutil

from agents import until
from infra.provider import Kind
from infra.receipt import read_receipt
from infra.stores import Store
from rentals import VOC_TRAIN, Account, Start, left_over, voc_train


def interrupt(process: psutil.Popen) -> None:
    """As a terminal does, which tells the whole group."""
    os.killpg(process.pid, signal.SIGINT)


def test_ctrl_c_while_a_machine_is_set_up_deletes_it(
    start: Start, account: Account, store: Store
) -> None:
    process = start("gpu_trainer runs")
    interrupt(process)
    assert process.wait(100) == 130
    said = process.stderr.read()
    assert "what was running has been stopped" in said
    (run_id,) = store.folders("runs")
    receipt = read_receipt(store, run_id)
    assert receipt
    assert f"${receipt.dollars:.2f}" in said
    assert [line.label for line in receipt.lines if line.dollars] == [
        bill.label for bill in account.bill()
    ]


def test_ctrl_c_in_training_and_again_and_again_leaves_nothing(
    start: Start, account: Account, store: Store
) -> None:
    process = start("epoch 1/")
    interrupt(process)
    for line in process.stderr:
        if "deleting" in line:
            interrupt(process)
    assert process.wait(100) == 130
    (run_id,) = store.folders("runs")
    receipt = read_receipt(store, run_id)
    assert receipt
    assert not receipt.leaked
    assert all(bill.gone for bill in account.bill())


def test_what_a_killed_controller_leaves_the_reaper_ends_from_anywhere(
    start: Start, account: Account, store: Store, tmp_path: Path
) -> None:
    process = start("epoch 1/")
    process.kill()
    elsewhere = {"VOC_TRAIN_HOME": str(tmp_path / "another-computer"), "VOC_TRAIN_STORE": store.url}

    voc_train(("reap", "--delete"), elsewhere)
    assert {thing.kind for thing in account.left()} >= {Kind.INSTANCE, Kind.FIREWALL}

    late = account.clock.environment()
    assert late
    name, value = next(iter(late.items()))
    begin, _, speed = value.partition("@")
    elsewhere[name] = f"{begin}@{float(speed) * 400}"
    until(lambda: not _reaped(elsewhere, account))
    assert not left_over(tmp_path / "linode")


def _reaped(environment: dict[str, str], account: Account) -> list[str]:
    """Have the reaper look once; what is left after it."""
    subprocess.run(
        [VOC_TRAIN, "reap", "--delete"], env=os.environ | environment, check=False, timeout=60
    )
    return [thing.label for thing in account.left()]


def test_whoever_reaps_a_run_that_is_driven_ends_it(
    start: Start, account: Account, store: Store, tmp_path: Path
) -> None:
    """Its controller hears that it is not its own any more, and rents nothing in its stead."""
    process = start("epoch 1/")
    (run_id,) = store.folders("runs")
    elsewhere = {"VOC_TRAIN_HOME": str(tmp_path / "another-computer"), "VOC_TRAIN_STORE": store.url}
    reap = [VOC_TRAIN, "reap", "--delete", "--run", run_id]
    until(lambda: subprocess.run(reap, env=os.environ | elsewhere, check=False).returncode == 0)
    said = process.communicate(timeout=100)[1]
    assert process.returncode == 1, said
    assert f"Run {run_id} was taken over by" in said
    assert [line.kind for line in account.bill()].count("instance") == 1
    assert not account.left()
