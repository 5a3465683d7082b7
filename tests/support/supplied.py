"""A dataset of many shards in a store, and a job that gets them through a tenth of their room."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from infra.failure import Failure
from infra.on_demand import Supplier
from infra.protocol import OnDemand
from infra.stores import Store
from model.manifest import Manifest
from pipeline.stages.train import shard_inputs
from tiny import labelled, write_dataset, write_recipe

SHARDS, A_SHARD = 40, 4  # 136 samples train, 24 validate


class Watched(Store):
    """A folder store that notes how much of what it gives is on the disk at a time."""

    def __init__(self, folder: Path, into: Path) -> None:
        super().__init__(folder.as_uri(), folder)
        self.into = into
        self.most = 0  # bytes
        self.given: list[str] = []

    def get_file(
        self, key: str, path: Path, *, sha256: str | None = None, link: bool = False
    ) -> None:
        super().get_file(key, path, sha256=sha256, link=link)
        self.given.append(path.name)
        size = 0
        for folder, _, files in os.walk(self.into / "dataset" / "shards"):
            for file in files:
                with suppress(FileNotFoundError):  # it went meanwhile
                    size += Path(folder, file).stat().st_size
        self.most = max(self.most, size)


def build(folder: Path) -> Manifest:
    """The dataset, in a folder."""
    train = [labelled(i, 20 + i % 5, 24 - i % 4) for i in range(136)]
    val = [labelled(1000 + i, 17 + i % 3, 26 - i % 4) for i in range(24)]
    return write_dataset(folder, {"train": train, "val": val}, a_shard=A_SHARD)


def tenth_of(manifest: Manifest) -> int:
    """Bytes of a tenth of its shards."""
    return sum(shard.size for shard in manifest.shards) // 10


def streamed_job(built: Path, manifest: Manifest, job: Path, **settings: object) -> Path:
    """A job's folder without any shard."""
    (job / "dataset").mkdir(parents=True)
    for name in ("manifest.json", "index.jsonl"):
        (job / "dataset" / name).symlink_to(built / name)
    write_recipe(job, stream_gb=tenth_of(manifest) / 1e9, **settings)
    return job


@contextmanager
def supplied(
    store: Store, job: Path, manifest: Manifest, patience: float = 60.0
) -> Iterator[tuple[Supplier, list[Failure]]]:
    """What the agent does while a job runs; and why it gave up."""
    failures: list[Failure] = []
    on_demand = OnDemand(inputs=shard_inputs(manifest, "shards"), room=tenth_of(manifest))
    with Supplier(store, job, on_demand, failures.append, (patience, patience)) as supplier:
        yield supplier, failures
