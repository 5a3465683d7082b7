"""A store as many runs have left it, small and quick to make."""

import os
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from infra.protocol import now
from infra.stores import Store
from model.manifest import Manifest, Shard
from pipeline.archive import Archive
from pipeline.champion import Checkpoint, Decision
from pipeline.run_record import RunRecord

BLOB = b"weights" * 100


def sha(letter: str) -> str:
    """The sha256 of an archive, as it might be."""
    return letter * 64


def put_archive(store: Store, letter: str) -> str:
    """An archive, its index, and the note of the URL that it came from; returns its sha256."""
    archive = Archive(
        sha256=sha(letter), size=4, members=1, source="voc.tar", source_sha256=sha(letter),
        location="store",
    )  # fmt: skip
    store.put(archive.tar_key, b"tar!")
    store.put(archive.index_key, b"{}")
    note = archive.model_dump_json()
    store.put(f"archives/urls/{letter}.json", b'{"archive": ' + note.encode() + b"}")
    return archive.sha256


def put_dataset(store: Store, key: str, archives: Iterable[str] = ()) -> None:
    """A dataset of two shards, and the split that it was built from."""
    of = tuple(map(sha, archives))
    manifest = Manifest(
        key=key, digest=key, classes=("background", "thing"), counts={}, pixels={}, archives=of,
        max_side=None, shards=(Shard(name="00000.tar", size=5, sha256=""),), index_sha256="",
        left_out={},
    )  # fmt: skip
    for name in ("shards/00000.tar", "shards/00001.tar", "index.jsonl"):
        store.put(f"datasets/{key}/{name}", b"shard")
    store.write(f"datasets/{key}/manifest.json", manifest)
    pairs = ", ".join(f'{{"archive": "{one}"}}' for one in of)
    store.put(f"splits/{key}.json", f'{{"pairs": [{pairs}]}}'.encode())


def put_run(
    store: Store,
    run_id: str,
    *,
    days: float = 30,
    dataset: str | None = None,
    archives: Iterable[str] = (),
    state: str = "done",
    **values: Any,
) -> None:
    """A run that began so many days ago, with a checkpoint, a log and a receipt."""
    started = now() - timedelta(days=days)
    record = RunRecord.model_validate(
        {
            "run_id": run_id, "state": state, "started": started, "parameters": {},
            "dataset": dataset, "sources": {sha(letter): "voc.tar" for letter in archives},
        } | values
    )  # fmt: skip
    store.write(f"runs/{run_id}/run.json", record)
    store.put(f"runs/{run_id}/receipt.json", b"{}")
    store.put(f"runs/{run_id}/checkpoints/00000009/checkpoint.pt", BLOB)
    store.put(f"runs/{run_id}/checkpoints/00000009/manifest.json", b"{}")
    for name in ("log/00000000.txt", "metrics.jsonl", "report.html", "spec.json"):
        store.put(f"runs/{run_id}/{name}", b"something")


def put_decision(store: Store, number: int, run_id: str, dataset: str, **values: Any) -> None:
    """A promotion of a run's checkpoint over the one before, unless `values` say otherwise."""
    made_by = [store.read(entry.key, Decision) for entry in store.list("champions")]
    before = made_by[-1].name if made_by and made_by[-1] else None
    checkpoint = Checkpoint(
        run_id=run_id, step=9, key=f"runs/{run_id}/checkpoints/00000009", size=len(BLOB),
        sha256="", weights_digest="", miou=0.5, classes=("background", "thing"),
        dataset_key=dataset, dataset_digest=dataset,
    )  # fmt: skip
    decision = Decision.model_validate(
        {
            "name": f"{number:06d}-{run_id}-aaaaa", "number": number, "kind": "promoted",
            "time": datetime(2026, 11, number, tzinfo=UTC), "over": before,
            "checkpoint": checkpoint, "said": "It is better.",
        } | values
    )  # fmt: skip
    store.write(f"champions/{decision.name}.json", decision)


def make_older(store: Store, days: float, but: str = "\0") -> None:
    """All that lies in a folder was written so many days earlier, but for keys with that in it."""
    root = store.local_path("")
    assert root
    then = time.time() - days * 86400
    for path in root.rglob("*"):
        if path.is_file() and but not in str(path):
            os.utime(path, (then, then))


def keys(store: Store, prefix: str = "") -> set[str]:
    """Every key below a folder of the store."""
    return {entry.key for entry in store.list(prefix)}
