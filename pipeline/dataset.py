"""Where a dataset lies in the store, and how to have it on this computer."""

import hashlib
from pathlib import Path

from infra.failure import Cause, Failure
from infra.integrity import hashes_to
from infra.stores import Store
from model.manifest import Manifest


def dataset_prefix(key: str) -> str:
    """Where a dataset lies in the store."""
    return f"datasets/{key}"


def is_whole(dataset: Manifest, store: Store) -> bool:
    """Whether the store still has all that the manifest promises; only the index is read."""
    prefix = dataset_prefix(dataset.key)
    present = {entry.key: entry.size for entry in store.list(prefix)}
    index = store.get(f"{prefix}/index.jsonl") or b""
    return hashlib.sha256(index).hexdigest() == dataset.index_sha256 and all(
        present.get(f"{prefix}/shards/{shard.name}") == shard.size for shard in dataset.shards
    )


def local_dataset(dataset: Manifest, store: Store, cache: Path) -> Path:
    """The dataset as a folder on this computer, verified, and fetched where it is not here."""
    prefix = dataset_prefix(dataset.key)
    wanted = [(f"shards/{shard.name}", shard.sha256) for shard in dataset.shards]
    wanted.append(("index.jsonl", dataset.index_sha256))
    if (here := store.local_path(prefix)) is not None:
        for name, sha256 in wanted:
            _must_hash_to(here / name, sha256)
        return here
    folder = cache / dataset.key
    for name, sha256 in wanted:
        if not hashes_to(folder / name, sha256):  # not here yet, or no longer whole
            store.get_file(f"{prefix}/{name}", folder / name, sha256=sha256)
    store.get_file(f"{prefix}/manifest.json", folder / "manifest.json")
    return folder


def _must_hash_to(path: Path, sha256: str) -> None:
    if not hashes_to(path, sha256):
        raise Failure(
            Cause.CORRUPT,
            f"{path} is damaged: its sha256 is not the manifest's. Delete the dataset's folder and "
            "run again.",
        )
