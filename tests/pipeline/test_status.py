"""What `voc-train status` says of runs that are well, dead, or written by other code."""

import contextlib
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from infra.claims import Hold
from infra.failure import Cause, Failure
from infra.intents import Intent, Intents
from infra.protocol import Heartbeat, Result, now
from infra.provider import Kind, Thing
from infra.reaper_report import REPORT, ReaperReport
from infra.stores import Store
from pipeline.pruned import Pruned
from pipeline.run_record import RunRecord
from pipeline.runs import Wanted, print_runs
from pipeline.status import one_run, print_one


def record(store: Store, run_id: str, state: str = "running", **values: Any) -> None:
    written = RunRecord.model_validate(
        {"run_id": run_id, "state": state, "started": now(), "parameters": {"recipe": "tiny"}}
        | values
    )
    store.put(f"runs/{run_id}/run.json", written.model_dump_json().encode())


def beat(store: Store, run_id: str, time: datetime) -> None:
    heartbeat = Heartbeat(time=time, state="running", progress={"step": 3, "total_steps": 9})
    store.put(f"runs/{run_id}/heartbeat.json", heartbeat.model_dump_json().encode())


def result(store: Store, run_id: str, ended: datetime, cause: Cause | None = None) -> None:
    said = Result(exit_code=0, cause=cause, message="said", started=ended, ended=ended)
    store.write(f"runs/{run_id}/result.json", said)


def listed(store: Store, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    print_runs(store, Wanted(), as_json=True)
    return {run["run_id"]: run["state"] for run in json.loads(capsys.readouterr().out)}


def test_list_and_detail_agree_on_who_is_silent(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    long_ago = now() - timedelta(hours=1)
    record(store, "at-work", started=long_ago)
    beat(store, "at-work", now())
    record(store, "killed", started=long_ago)
    beat(store, "killed", long_ago)
    record(store, "killed-early", started=now() - timedelta(days=1))
    record(store, "downloading", started=long_ago)
    record(store, "just-begun")
    record(store, "ended", "done", started=now() - timedelta(days=1))
    beat(store, "ended", long_ago)
    record(store, "trained", started=long_ago)
    beat(store, "trained", long_ago)
    result(store, "trained", long_ago)
    record(store, "scoring", started=long_ago)
    beat(store, "scoring", long_ago)
    result(store, "scoring", now())
    record(store, "failed", started=long_ago)
    result(store, "failed", long_ago, Cause.OUT_OF_MEMORY)
    expected = {
        "at-work": "running",
        "killed": "silent",
        "killed-early": "silent",
        "downloading": "running",
        "just-begun": "running",
        "ended": "done",
        "trained": "trained",
        "scoring": "trained",
        "failed": "failed",
    }
    assert listed(store, capsys) == expected
    assert {run: one_run(store, run)["state"] for run in expected} == expected


def test_a_run_that_its_controller_drives_is_never_silent(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    long_ago, yesterday = now() - timedelta(hours=1), now() - timedelta(days=1)
    for name in ("waiting", "waits again", "rents again", "killed while waiting"):
        record(store, name, started=yesterday)
    beat(store, "rents again", long_ago)
    result(store, "waits again", long_ago, Cause.AGENT_LOST)  # of an earlier attempt
    with contextlib.ExitStack() as driven:
        for name in ("waiting", "waits again", "rents again", "killed while waiting"):
            driven.enter_context(Hold(store, name, every=3600))
        (claim,) = store.list("runs/killed while waiting/claims")
        path = store.local_path(claim.key)
        assert path
        os.utime(path, (long_ago.timestamp(),) * 2)
        expected = dict.fromkeys(("waiting", "waits again", "rents again"), "running")
        expected["killed while waiting"] = "silent"
        assert listed(store, capsys) == expected
        assert {run: one_run(store, run)["state"] for run in expected} == expected
    assert listed(store, capsys)["waits again"] == "failed"


def test_a_run_that_was_pruned_says_so(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    record(store, "old", "done")
    store.write("runs/old/pruned.json", Pruned(time=datetime(2026, 11, 2, tzinfo=UTC), why="old"))
    print_one(one_run(store, "old"), as_json=False)
    assert "pruned on 2026-11-02: its checkpoints were deleted" in capsys.readouterr().out
    store.put("runs/old/checkpoints/00000001/checkpoint.pt", b"of one that went on with it")
    assert one_run(store, "old")["pruned"] is None


def test_a_record_of_other_code_is_listed_and_a_damaged_one_hides_no_other(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    record(store, "old", "done", parameters={"recipe": "no-longer-there", "gone": 1})
    record(store, "good", "done")
    store.put("runs/damaged/run.json", b"{")
    record(store, "mute")
    store.put("runs/mute/heartbeat.json", b"{")
    assert listed(store, capsys) == {"old": "done", "good": "done", "mute": "running"}
    assert one_run(store, "mute")["heartbeat"] is None
    print_runs(store, Wanted(), as_json=False)
    assert "no-longer-there" in capsys.readouterr().out
    with pytest.raises(Failure, match="runs/damaged/run.json"):
        one_run(store, "damaged")


def test_one_run_shows_how_far_it_is(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    record(store, "at-work")
    beat(store, "at-work", now())
    print_one(one_run(store, "at-work"), as_json=False)
    assert "step 3 of 9" in capsys.readouterr().out


def test_a_run_whose_controller_died_says_how_to_go_on(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    long_ago = now() - timedelta(hours=1)
    for run_id, cause in (("trained", None), ("failed", Cause.OUT_OF_MEMORY)):
        record(store, run_id, started=long_ago)
        result(store, run_id, long_ago, cause)
    store.put("runs/trained/checkpoints/00000032/manifest.json", b"{}")
    print_one(one_run(store, "trained"), as_json=False)
    assert "of step 32: voc-train fetch trained" in capsys.readouterr().out
    print_one(one_run(store, "failed"), as_json=False)
    assert "OUT_OF_MEMORY: said" in capsys.readouterr().out


def test_one_run_says_what_it_has_cost_and_what_costs_still(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    began = now() - timedelta(minutes=90)
    record(store, "rented", started=began)
    beat(store, "rented", began)
    intents = Intents(store, "rented")
    machine = Intent(
        kind=Kind.INSTANCE,
        label="voc-train-rented-t1",
        time=began,
        until=began + timedelta(hours=4),
        dollars_per_hour=0.52,
    )
    firewall = Intent(kind=Kind.FIREWALL, label="f1", time=began, until=machine.until)
    for number, intent in enumerate((machine, firewall)):
        intents.intend(intent)
        intents.created(intent, Thing(intent.kind, number, intent.label, created=began))
    print_one(one_run(store, "rented"), as_json=False)
    said = capsys.readouterr().out
    assert "instance voc-train-rented-t1 is not gone" in said
    assert "$0.52 an hour" in said
    assert f"{machine.until:%d %b %H:%M} UTC" in said
    assert "cost        $1.04" in said
    assert "voc-train reap --delete --run rented" in said  # nobody is heard of
    assert "f1" not in said
    looked = now() - timedelta(minutes=31)  # after 59 minutes, and sees nothing any more
    store.write(REPORT, ReaperReport(time=looked, deletes=True))
    print_one(one_run(store, "rented"), as_json=False)
    said = capsys.readouterr().out
    assert "cost        $0.52" in said
    assert "not gone" not in said
    store.delete(REPORT)
    intents.ended(machine, began + timedelta(minutes=50), "seen gone")
    print_one(one_run(store, "rented"), as_json=False)
    said = capsys.readouterr().out
    assert "cost        $0.52" in said
    assert "not gone" not in said


def test_what_a_machine_said_does_not_steer_the_terminal(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    steering = "\x1b[2J\x1b]0;you\x07[/]"
    record(store, "r", "failed", cause="USER_ERROR", message=steering)
    store.put("runs/r/checkpoints/none/manifest.json", b"{}")
    written = json.loads(store.get("runs/r/run.json") or b"")
    written["parameters"]["recipe"] = steering
    store.put("runs/r/run.json", json.dumps(written).encode())
    print_runs(store, Wanted(), as_json=False)
    print_one(one_run(store, "r"), as_json=False)
    said = capsys.readouterr().out
    assert "USER_ERROR: " in said
    assert "\x1b" not in said


def test_a_sweep_lives_as_long_as_its_controller_claims_it(
    store: Store, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for run_id, seconds in (("driven", 0), ("left", 3600)):
        trials = [{"run_id": f"{run_id}-trial", "settings": {"lr": "1"}}]
        record(store, run_id, started=now() - timedelta(days=2), trials=trials)
        store.put(f"runs/{run_id}/claims/owner.json", b"{}")
        (claim,) = tmp_path.rglob(f"{run_id}/claims/owner.json")
        written = (now() - timedelta(seconds=seconds)).timestamp()
        os.utime(claim, (written, written))
    assert listed(store, capsys) == {"driven": "running", "left": "silent"}
    assert one_run(store, "driven")["state"] == "running"
    assert one_run(store, "left")["state"] == "silent"
