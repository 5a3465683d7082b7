"""`voc-train smoke` as it is typed, against a simulated account without machines."""

import json
import re
import signal
import subprocess
from collections.abc import Callable
from functools import partial

import pytest

from commands import VocTrain, home_store
from infra.lease import Patience
from infra.receipt import read_receipt
from infra.simulator import Simulator
from infra.stores import Store
from servers.receiver import Receiver


def test_a_smoke_test_that_is_declined_creates_nothing(
    simulator: Simulator, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start("smoke", "--no-reaper")
    out, err = process.communicate("n\n", timeout=60)
    assert process.returncode == 1
    assert "Rent it? [y/N]" in err
    assert "no reaper" in err
    assert out.strip() == ""
    assert simulator.bill() == []
    assert not home_store().exists()


def test_a_smoke_test_is_two_hours_of_the_cheapest_machine_and_wants_a_reaper(
    voc_train: VocTrain, simulator: Simulator
) -> None:
    refused = voc_train("smoke", "--yes", "--region", "us-ord")
    assert refused.code == 2
    assert "No reaper" in refused.err
    assert simulator.bill() == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_smoke_test_that_is_interrupted_leaves_nothing(
    simulator: Simulator, start: Callable[..., subprocess.Popen[str]], how: signal.Signals
) -> None:
    simulator.faults.add("boot_never_ends")
    process = start("smoke", "--yes", "--no-reaper", "--region", "us-ord", "--json")
    assert process.stderr
    shown = ""
    for line in process.stderr:
        shown += line
        if line.startswith("booting"):
            break
    process.send_signal(how)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 130, err
    assert "at most     $0.0150" in shown  # two hours
    assert simulator.left() == []
    said = json.loads(out)
    assert said["cause"] == "CANCELLED"
    receipt = read_receipt(Store.open(str(home_store())), said["run_id"])
    assert receipt
    assert receipt.dollars == 0.0075
    assert all(line.gone for line in receipt.lines)
    assert "0.0075" in err


@pytest.mark.parametrize("speed", [3600])
def test_a_smoke_test_that_cannot_delete_says_what_is_left(
    voc_train: VocTrain, simulator: Simulator
) -> None:
    simulator.faults.add("boot_never_ends", times=2)
    simulator.faults.add("delete_fails", path="/linode/instances/*")
    said = voc_train("smoke", "--yes", "--no-reaper", "--region", "us-ord")
    assert said.code == 1
    assert "Could not be shown gone" in said.err
    assert "NOT SHOWN GONE" in said.out


def test_nobody_to_ask_is_no_yes(
    simulator: Simulator, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start("smoke", "--no-reaper")
    _, said = process.communicate("", timeout=120)
    assert (process.returncode, "--yes" in said) == (2, True), said
    assert not simulator.left()


def test_a_smoke_test_that_leaks_is_told(
    voc_train: VocTrain, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.lease.Patience", partial(Patience, capacity=1, deletion=1))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    simulator.faults.add("no_capacity")
    simulator.faults.add("delete_fails", path="/networking/firewalls/*")
    with Receiver() as receiver:
        monkeypatch.setenv("VOC_TRAIN_NOTIFY", receiver.url)
        said = voc_train("smoke", "--yes", "--no-reaper", "--region", "us-ord")
        assert said.code == 1
        assert "Could not be shown gone: firewall" in said.err
        (message,) = receiver.messages
    assert re.match(r"LEAKED: voc-train: run \S+ left something that costs", message["title"])
    assert "firewall" in message["message"]
