"""Damaged archives, separations, datasets and records: built or fetched again, or named."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from agents import job_spec
from damage import damaged, flipped
from devkit import devkit, extracted
from infra.clock import Clock
from infra.failure import Cause, Failure
from infra.lease import Patience
from infra.log import LogReader
from infra.machines import LocalMachine
from infra.protocol import Heartbeat, Result, now, run_key
from infra.stores import Store
from model.journal import Journal
from model.manifest import Manifest
from pipeline.archive import local_tar, read_archive_index
from pipeline.dataset import dataset_prefix, local_dataset
from pipeline.parameters import VOC_CLASSES
from pipeline.progress import silent
from pipeline.stages.build_dataset import build_dataset
from pipeline.stages.extract import extract
from pipeline.stages.separate import separate
from pipeline.stages.train import _Follower

Damage = Callable[[bytes], bytes]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return devkit(tmp_path / "voc.tar", train=("t1", "t2"), val=("v1",))


def harm(store: Store, key: str, damage: Damage) -> bytes:
    """Damage an object; returns what it was."""
    before = store.get(key)
    assert before
    store.put(key, damage(before))
    return before


def built(store: Store, spool: Path, archive: Path, **more: int) -> tuple[Manifest, bool]:
    """The dataset of an archive; True when it was there already."""
    archives = extracted(store, spool, archive)
    separation, _ = separate(archives, store, spool)
    return build_dataset(separation, archives, store, spool, classes=VOC_CLASSES, **more)


@damaged
def test_a_damaged_index_of_an_archive_is_made_again(
    archive: Path, store: Store, spool: Path, damage: Damage
) -> None:
    first, _ = extract(str(archive), store, spool)
    whole = harm(store, first.index_key, damage)
    with pytest.raises(Failure, match=f"{first.index_key} .*delete it and run again") as caught:
        read_archive_index(first, store, spool)
    assert caught.value.cause is Cause.CORRUPT
    again, reused = extract(str(archive), store, spool)
    assert (again, reused) == (first, False)
    assert store.get(first.index_key) == whole


@damaged
def test_a_damaged_memory_of_an_archive_is_none(
    archive: Path, store: Store, spool: Path, damage: Damage
) -> None:
    extract(str(archive), store, spool)
    (note,) = [entry.key for entry in store.list("archives/urls")]
    harm(store, note, damage)
    assert not extract(str(archive), store, spool)[1]
    assert extract(str(archive), store, spool)[1]


@damaged
def test_a_damaged_tar_in_the_store_is_named(
    archive: Path, store: Store, spool: Path, damage: Damage
) -> None:
    found, _ = extract(str(archive), store, spool)
    found = found.model_copy(update={"location": "store", "original": None})
    store.put(found.tar_key, damage(archive.read_bytes()))
    with pytest.raises(Failure, match=f"{found.tar_key} .*delete it and run again") as caught:
        local_tar(found, store, spool)
    assert caught.value.cause is Cause.CORRUPT


@damaged
def test_a_damaged_separation_is_made_again(
    archive: Path, store: Store, spool: Path, damage: Damage
) -> None:
    archives = extracted(store, spool, archive)
    first, _ = separate(archives, store, spool)
    harm(store, f"splits/{first.key}.json", damage)
    assert separate(archives, store, spool) == (first, False)
    assert separate(archives, store, spool) == (first, True)


@damaged
@pytest.mark.parametrize("name", ["manifest.json", "index.jsonl", "shards/00000.tar"])
def test_a_damaged_dataset_is_built_again_or_named(
    archive: Path, store: Store, spool: Path, tmp_path: Path, name: str, damage: Damage
) -> None:
    first, _ = built(store, spool, archive)
    key = f"{dataset_prefix(first.key)}/{name}"
    whole = harm(store, key, damage)
    again, reused = built(store, spool, archive)
    assert again == first
    assert reused == (name.startswith("shards") and damage is flipped)
    if reused:  # as large as it should be: whoever reads it notices
        with pytest.raises(Failure, match=f"{name} is damaged.* Delete the dataset") as caught:
            local_dataset(first, store, tmp_path / "cache")
        assert caught.value.cause is Cause.CORRUPT
    else:
        assert store.get(key) == whole


@damaged
@pytest.mark.parametrize("name", ["index.jsonl", "shards/00000.tar", "manifest.json"])
def test_a_damaged_dataset_in_the_cache_is_fetched_again(
    archive: Path, store: Store, spool: Path, tmp_path: Path, name: str, damage: Damage
) -> None:
    dataset, _ = built(store, spool, archive)
    prefix = dataset_prefix(dataset.key)
    there = tmp_path / "cache" / dataset.key / name
    there.parent.mkdir(parents=True)
    there.write_bytes(damage(store.get(f"{prefix}/{name}") or b""))
    afar = Store(store.url, store._objects())  # not seen as a folder: as a bucket is
    local_dataset(dataset, afar, tmp_path / "cache")
    assert there.read_bytes() == store.get(f"{prefix}/{name}")


def test_another_datasets_manifest_is_not_taken(archive: Path, store: Store, spool: Path) -> None:
    """By code that wrote no seal, so that only its key shows it."""
    first, _ = built(store, spool, archive)
    small, _ = built(store, spool, archive, max_side=8)
    other = small.model_dump_json().encode()
    store.put(f"{dataset_prefix(first.key)}/manifest.json", other)
    assert built(store, spool, archive) == (first, False)


@damaged
def test_a_damaged_heartbeat_costs_no_run_its_result(
    store: Store, tmp_path: Path, damage: Damage
) -> None:
    """The agent has ended, so no other beat will come."""
    store.write(run_key("r", "heartbeat.json"), Heartbeat(time=now(), state="finishing"))
    harm(store, run_key("r", "heartbeat.json"), damage)
    result = Result(exit_code=0, cause=None, message="done", started=now(), ended=now())
    store.write(run_key("r", "result.json"), result)
    follower = _Follower(
        job_spec("pass"), store, LocalMachine(tmp_path), Clock(), Patience(), silent, print,
        LogReader(store, "r"),
    )  # fmt: skip
    assert follower.follow() == result


@damaged
def test_a_damaged_line_of_metrics_stops_no_training(tmp_path: Path, damage: Damage) -> None:
    with Journal(tmp_path, 0) as journal:
        for step in (1, 2, 3):
            journal.write("step", step)
    lines = (tmp_path / Journal.METRICS).read_bytes().splitlines()
    lines[1] = damage(lines[1]).replace(b"\n", b"") + b"\xff"
    (tmp_path / Journal.METRICS).write_bytes(b"\n".join(lines) + b"\n")
    with Journal(tmp_path, 3):
        pass
    kept = [json.loads(line) for line in (tmp_path / Journal.METRICS).open()]
    assert [record["step"] for record in kept] == [1, 3]
