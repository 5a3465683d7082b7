"""Where a dataset lies in the store, and how to have it on this computer."""

import hashlib
import io
from collections.abc import Collection
from pathlib import Path

import numpy as np

from infra.failure import Cause, Failure
from infra.integrity import hashes_to
from infra.stores import Store
from model.manifest import SPLITS, Manifest, read_index
from model.recipe import Recipe
from model.stream import room_of, window_of


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


def local_dataset(
    dataset: Manifest, store: Store, cache: Path, splits: Collection[str] = SPLITS
) -> Path:
    """The dataset as a folder on this computer, verified, and fetched where it is not here.

    Of its shards those that hold a sample of one of the `splits`.
    """
    prefix = dataset_prefix(dataset.key)
    here = store.local_path(prefix)
    folder = here or cache / dataset.key

    def need(name: str, sha256: str) -> None:
        if here:
            _must_hash_to(here / name, sha256)
        elif not hashes_to(folder / name, sha256):  # not here yet, or no longer whole
            store.get_file(f"{prefix}/{name}", folder / name, sha256=sha256)

    need("index.jsonl", dataset.index_sha256)
    with (folder / "index.jsonl").open() as lines:
        needed = {sample.shard for sample in read_index(lines) if sample.split in splits}
    for number in sorted(needed):
        shard = dataset.shards[number]
        need(f"shards/{shard.name}", shard.sha256)
    if not here:
        store.get_file(f"{prefix}/manifest.json", folder / "manifest.json")
    return folder


def bytes_to_train(dataset: Manifest, recipe: Recipe) -> int:
    """Room that the dataset takes on the disk of the machine that trains."""
    size = sum(shard.size for shard in dataset.shards)
    return min(size, room_of(recipe) or size)


def must_fit_batches(dataset: Manifest, recipe: Recipe, store: Store) -> None:
    """InputError where the room for shards that are streamed is too small for a batch's."""
    room = room_of(recipe)
    if room is None:
        return
    index = io.BytesIO(store.get(f"{dataset_prefix(dataset.key)}/index.jsonl") or b"")
    samples = read_index(line.decode() for line in index)
    shards = [sample.shard for sample in samples if sample.split == "train"]
    window_of(dataset, np.array(shards), recipe, room)


def _must_hash_to(path: Path, sha256: str) -> None:
    if not hashes_to(path, sha256):
        raise Failure(
            Cause.CORRUPT,
            f"{path} is damaged: its sha256 is not the manifest's. Delete the dataset's folder and "
            "run again.",
        )
