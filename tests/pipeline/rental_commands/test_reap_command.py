"""`voc-train reap` as it is typed, once and again and again, against a simulated account."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from commands import RUN, VocTrain
from infra.linode import Linode
from infra.ownership import label, tags
from infra.provider import VolumeOrder
from infra.reaper_report import ReaperReport
from infra.simulator import Simulator
from infra.stores import Store
from servers.receiver import CANARY, Receiver


def _volume(simulator: Simulator, *, hours: float) -> None:
    """Rent something whose lease ends in so many hours."""
    until = simulator.clock.now() + timedelta(hours=hours)
    provider = Linode(simulator.token, simulator.url, clock=simulator.clock)
    provider.create(VolumeOrder(label(RUN, "v"), tags(RUN, until), "us-ord", 100))


def test_a_reaper_shows_what_would_be_saved_and_then_deletes_it(
    voc_train: VocTrain, simulator: Simulator
) -> None:
    assert "nothing of ours is there" in voc_train("reap").out
    _volume(simulator, hours=-1)

    shown = voc_train("reap")
    assert shown.code == 0
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC:\n", shown.out)  # it may go into a log
    assert "1 past their deadline, at $0.0150 an hour" in shown.words
    assert len(simulator.left()) == 1

    deleted = voc_train("reap", "--delete", "--json")
    report = ReaperReport.model_validate_json(deleted.out)
    assert report.deletes
    assert [found.label for found in report.found] == [label(RUN, "v")]
    voc_train("reap", "--delete")
    assert simulator.left() == []


def test_a_reaper_works_from_another_computer_with_a_token_and_a_store(
    voc_train: VocTrain,
    simulator: Simulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _volume(simulator, hours=5)
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    monkeypatch.delenv("VOC_TRAIN_HOME")
    said = voc_train("reap", "--delete", "--store", tmp_path / "shared")
    assert said.code == 0
    assert "live" in said.out
    assert Store.open(str(tmp_path / "shared")).read("reaper.json", ReaperReport)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_reaper_that_stays_survives_a_look_that_fails(
    simulator: Simulator, start: Callable[..., subprocess.Popen[str]], how: signal.Signals
) -> None:
    process = start("reap", "--every", "0.1", "--delete", "--json")
    assert process.stdout

    def until(wanted: str) -> dict[str, Any]:
        assert process.stdout
        for line in process.stdout:
            look: dict[str, Any] = json.loads(line)
            if wanted in look:
                return look
        raise AssertionError(process.communicate()[1])

    until("found")
    fault = simulator.faults.add("expired_token")
    assert "LINODE_TOKEN" in until("error")["error"]
    simulator.faults.remove(fault)
    until("found")

    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "this look failed: " in err


def test_a_reaper_that_was_started_with_a_wrong_token_says_so_at_once(
    simulator: Simulator,
    start: Callable[..., subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LINODE_TOKEN", "wrong")
    process = start("reap", "--every", "5")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "LINODE_TOKEN" in err


def test_a_reaper_that_stays_has_another_key_for_the_bucket_at_each_look(
    voc_train: VocTrain, simulator: Simulator, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []

    def look(*_: object, **__: object) -> ReaperReport:
        used.append(os.environ["AWS_ACCESS_KEY_ID"])
        if len(used) == 3:
            raise KeyboardInterrupt
        return ReaperReport(time=simulator.clock.now(), deletes=True)

    monkeypatch.setattr("infra.reaper.reap", look)
    said = voc_train("reap", "--delete", "--every", "0.1", "--store", bucket)
    assert said.code == 130
    assert len(set(used)) == 3
    assert [thing.kind for thing in simulator.left()] == ["bucket"]


def test_a_reaper_that_stays_refuses_a_store_that_is_none(
    simulator: Simulator, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start("reap", "--every", "5", "--store", "ftp://photos")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "'ftp://photos' is not a store" in err


def test_what_could_not_be_seen_is_said_and_no_success(
    voc_train: VocTrain, simulator: Simulator
) -> None:
    simulator.faults.add("missing_scope", path="/linode/instances", scope="linodes*")
    looked = voc_train("reap")
    assert looked.code == 1
    assert "Could not look after every instance" in looked.words
    assert "among what could be seen" in looked.words


def test_what_lingers_at_two_looks_is_told(
    voc_train: VocTrain, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.faults.add("delete_fails", path="/volumes/*")
    _volume(simulator, hours=-1)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Receiver() as receiver:
        monkeypatch.setenv("VOC_TRAIN_NOTIFY", receiver.url)
        assert voc_train("reap", "--delete").code == 1
        simulator.clock.sleep(60)
        assert receiver.messages == []
        said = voc_train("reap", "--delete")
        assert said.code == 1
        (message,) = receiver.messages
        assert message["title"].startswith("LEAKED: voc-train: a reaper cannot delete")
        assert label(RUN, "v") in message["message"]
        assert CANARY not in said.out + said.err
