"""A run whose shards come when the order needs them, from the command line to its report."""

import json
from pathlib import Path

import pytest

from commands import VocTrain
from infra.failure import Cause, Failure
from infra.protocol import JobSpec, run_key
from infra.provider import Offer
from infra.stores import Store
from model.manifest import Manifest
from pipeline.dataset import bytes_to_train, dataset_prefix, local_dataset
from pipeline.parameters import Limits
from pipeline.sample_archive import SAMPLE_CLASSES
from pipeline.tenancy import with_room
from servers.rgw import RGW
from supplied import build
from tiny import RECIPE


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Limits, "shard_bytes", 12_000)
    monkeypatch.setenv("VOC_TRAIN_HOME", str(tmp_path / "home"))


def typed(archive: Path, store: Store, room: float) -> tuple[str, ...]:
    return (
        *("run", "local", "--archive", str(archive), "--classes", ",".join(SAMPLE_CLASSES)),
        *("--recipe", "tiny", "--set", "epochs=2", "--set", "width=2", "--set", "batch_size=2"),
        *("--set", "min_miou=none"),
        *("--set", f"stream_gb={room}", "--wandb", "disabled", "--workers", "1"),
        *("--store", store.url, "--json"),
    )


@pytest.mark.usefixtures("flows", "small_shards")
def test_a_streamed_run_comes_home_and_is_what_is_reproduced(
    archive: Path, store: Store, voc_train: VocTrain
) -> None:
    said = voc_train(*typed(archive, store, 6e-5))
    assert said.code == 0, said.err
    outcome = json.loads(said.out.splitlines()[-1])
    job = store.read(run_key(outcome["run_id"], "spec.json"), JobSpec)
    assert job
    assert [one.path for one in job.inputs] == ["dataset/index.jsonl"]
    assert job.on_demand.room == 60_000 < sum(one.size for one in job.on_demand.inputs)
    checked = voc_train("reproduce", outcome["checkpoint"], "--store", store.url, "--check")
    assert checked.code == 0, checked.err
    assert "stream_gb" in checked.out


@pytest.mark.usefixtures("flows", "small_shards")
def test_too_little_room_is_refused_before_anything_is_trained(
    archive: Path, store: Store, voc_train: VocTrain
) -> None:
    said = voc_train(*typed(archive, store, 1e-5))
    assert said.code == 2
    assert "stream_gb=1e-05 is too little room: a batch of 2 may need" in said.err
    (run,) = store.folders("runs")
    assert store.get(run_key(run, "spec.json")) is None


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return build(tmp_path / "built")


def test_of_a_bucket_only_the_shards_of_a_split_are_fetched(
    rgw: RGW, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in rgw.environment().items():
        monkeypatch.setenv(name, value)
    store = Store.open(f"s3://{rgw.create_bucket('one-split')}/deep")
    for path in (tmp_path / "built").rglob("*.*"):
        name = path.relative_to(tmp_path / "built").as_posix()
        store.put_file(f"{dataset_prefix(manifest.key)}/{name}", path)

    folder = local_dataset(manifest, store, tmp_path / "cache", ["val"])
    names = sorted(path.name for path in (folder / "shards").iterdir())
    assert names == [shard.name for shard in manifest.shards[34:]]
    assert local_dataset(manifest, store, tmp_path / "cache") == folder
    assert len(list((folder / "shards").iterdir())) == len(manifest.shards)


def offer(plan: str, disk_gib: int) -> Offer:
    return Offer(plan, plan, "here", 1.0, 1, 4, 16_000, disk_gib << 10, True)


def test_what_fits_on_no_disk_is_refused_with_the_cure(manifest: Manifest) -> None:
    whole = bytes_to_train(manifest, RECIPE)
    assert whole == sum(shard.size for shard in manifest.shards)
    assert bytes_to_train(manifest, RECIPE.override({"stream_gb": 1e-5})) == 10_000
    assert bytes_to_train(manifest, RECIPE.override({"stream_gb": 100})) == whole

    offers = offer("small", 100), offer("large", 500)
    assert with_room(offers, 200 << 30) == offers[1:]
    with pytest.raises(Failure, match=r"600.0 GB .* large has 536.9 GB: .* stream_gb=") as refused:
        with_room(offers, 600 * 10**9)
    assert refused.value.cause is Cause.BAD_INPUT
