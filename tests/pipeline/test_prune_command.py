"""`voc-train prune` as it is typed, and what it takes from this computer."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from commands import COMMAND
from infra.stores import Store
from pipeline.caches import clear, copies
from pipeline.holdings import survey
from stored import keys, make_older, put_dataset, put_run


def _prune(store: Store, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "prune", "--store", store.url, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "80"},
    )


@pytest.fixture
def old(store: Store) -> Store:
    put_dataset(store, "d", "a")
    for days in range(3):
        put_run(store, f"run-{days}", days=30 - days)
    make_older(store, 8)
    return store


def test_a_look_shows_what_would_go_and_a_deletion_does_it(old: Store) -> None:
    shown = _prune(old, "--keep", "1")
    assert shown.returncode == 0
    words = " ".join(shown.stdout.split())
    assert "run run-0 done, 20" in words
    assert "dataset d no run that stays needs it" in words
    assert "stays: 1 × among the last 1" in words
    assert "Nothing was deleted; --delete does it." in words
    assert len(keys(old)) == 3 * 8 + 4 + 1

    deleted = _prune(old, "--keep", "1", "--delete", "--json")
    said = json.loads(deleted.stdout)
    assert said["deletes"]
    assert all(item["deleted"] for item in said["items"])
    assert said["stays"] == {"run-2": "among the last 1"}
    assert len(keys(old)) == 2 * 3 + 8


def test_too_much_is_refused_unless_it_is_wanted(old: Store) -> None:
    refused = _prune(old, "--keep", "0", "--delete")
    assert refused.returncode == 2
    assert "3 of 3 runs would go" in refused.stderr
    assert len(keys(old)) == 3 * 8 + 4 + 1
    shown = _prune(old, "--keep", "0")
    assert "With --delete it would be refused: 3 of 3 runs" in shown.stdout
    assert _prune(old, "--keep", "0", "--delete", "--most", "100").returncode == 0
    assert len(keys(old)) == 3 * 3


def test_this_computers_copies_go_but_no_checkpoint_and_nothing_that_is_in_use(
    store: Store, tmp_path: Path
) -> None:
    put_run(store, "run-a", days=2, dataset="used", state="running")
    put_run(store, "run-b", days=2, dataset="unused")
    store.delete("runs/run-a/result.json")
    home = tmp_path / "here"
    for name in (
        "spool/aa.tar", "spool/aa.lock", "spool/young.tar", "datasets/used/index.jsonl",
        "datasets/unused/index.jsonl", "jobs/run-a/job/log", "jobs/run-b/job/log",
        "jobs/other/job/log", "checkpoints/run-b/checkpoint.pt",
    ):  # fmt: skip
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(b"12345")
    then = time.time() - 2 * 86400
    for path in home.rglob("*"):
        if path.name != "young.tar":
            os.utime(path, (then, then))

    # Of what a run reads that has not noted it yet, nobody knows.
    put_run(store, "run-c", days=0.01, state="running")
    assert {one.path.name for one in copies(home, survey(store))} == {"run-b"}
    put_run(store, "run-c", days=0.01, state="running", dataset="other")
    found = list(copies(home, survey(store)))
    assert {one.path.relative_to(home).as_posix(): one.size for one in found} == {
        "spool/aa.tar": 5,
        "datasets/unused": 5,
        "jobs/run-b": 5,
    }
    # Somebody goes on with a sweep meanwhile, of which the job was.
    trial = {"run_id": "run-b", "settings": {"lr": "1"}}
    put_run(store, "run-c", days=0.01, state="running", dataset="unused", trials=[trial])
    gone = clear(found, home, survey(store))
    assert {one.path.name for one in gone} == {"aa.tar"}
    put_run(store, "run-c", days=0.01)
    assert clear(found, home, survey(store)) == [one for one in found if one not in gone]
    assert list(copies(home, survey(store))) == []
