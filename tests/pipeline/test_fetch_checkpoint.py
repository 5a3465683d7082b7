"""What comes home is the best checkpoint that verifies, whole, or nothing."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from infra.failure import Cause, Failure
from infra.protocol import now
from infra.stores import Store
from model import checkpoint
from model.checkpoint import CheckpointManifest, Description
from model.device import pick_device, pick_precision
from model.manifest import Manifest, Sample, Shard
from model.nets import build_net
from model.provenance import provenance
from model.recipes import named
from model.train import train
from pipeline.dataset import local_dataset
from pipeline.pruned import Pruned
from pipeline.run_record import Outcome, RunRecord, Trial
from pipeline.stages.fetch_checkpoint import evaluate_again, fetch_checkpoint
from pipeline.stages.train import job_for
from servers.rgw import RGW
from tiny import write_job

RECIPE = named("tiny").override({"width": 2, "depth": 1})
CLASSES = ("background", "disc")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "r"


def _save(store: Store, scratch: Path, step: int, miou: float | None) -> CheckpointManifest:
    """Put a real checkpoint into the store, with weights of its own."""
    torch.manual_seed(step)
    cpu = pick_device("cpu")
    description = Description(
        run_id="r",
        wandb_id="w",
        recipe=RECIPE,
        classes=CLASSES,
        dataset_key="k",
        dataset_digest="d",
        archives=("a",),
        provenance=provenance(cpu, pick_precision("fp32", cpu)),
        step=step,
        epoch=1,
        steps_per_epoch=1,
        miou=miou,
        iou={},
    )
    net = build_net(RECIPE, len(CLASSES))
    manifest = checkpoint.save(scratch, description, {"net": net.state_dict()})
    folder = scratch / f"{step:08d}"
    for path in folder.iterdir():
        store.put_file(f"runs/r/checkpoints/{folder.name}/{path.name}", path)
    return manifest


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_the_best_comes_home_and_loads(store: Store, home: Path, tmp_path: Path) -> None:
    _save(store, tmp_path / "out", 1, 0.2)
    best = _save(store, tmp_path / "out", 2, 0.7)
    _save(store, tmp_path / "out", 3, 0.5)
    _save(store, tmp_path / "out", 4, None)  # written on a stop, never scored

    assert fetch_checkpoint("r", store, home) == best
    assert checkpoint.verified(home) == best
    description, state = checkpoint.load(home / "checkpoint.pt")
    assert description.step == 2
    assert checkpoint.weights_digest(state["net"]) == best.weights_digest
    assert _names(home) == ["checkpoint.pt", "manifest.json"]


def test_of_equals_the_newest_counts(store: Store, home: Path, tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000, 7):  # as text, the second is not the largest
        _save(store, tmp_path / "out", step, 0.5)
    assert fetch_checkpoint("r", store, home).step == 100_000_000


@pytest.mark.parametrize("harm", ["another byte", "truncated", "missing", "no manifest", "other"])
def test_a_harmed_one_is_passed_over(store: Store, home: Path, tmp_path: Path, harm: str) -> None:
    second = _save(store, tmp_path / "out", 1, 0.4)
    _save(store, tmp_path / "out", 2, 0.9)
    blob = "runs/r/checkpoints/00000002/checkpoint.pt"
    content = store.get(blob) or b""
    match harm:
        case "another byte":
            store.put(blob, content[:500] + bytes([content[500] ^ 1]) + content[501:])
        case "truncated":
            store.put(blob, content[:500])
        case "missing":
            store.delete(blob)
        case "no manifest":
            store.delete("runs/r/checkpoints/00000002/manifest.json")
        case "other":
            store.put("runs/r/checkpoints/00000002/manifest.json", b'{"sha256": 1}')

    assert fetch_checkpoint("r", store, home) == second
    assert checkpoint.verified(home) == second
    assert _names(home) == ["checkpoint.pt", "manifest.json"]


def test_where_there_is_none_it_says_why_and_what_to_do(store: Store, home: Path) -> None:
    def record(**more: object) -> None:
        written = {"run_id": "r", "state": "done", "started": now(), "parameters": {}}
        store.write("runs/r/run.json", RunRecord.model_validate(written | more))

    def said() -> str:
        with pytest.raises(Failure) as caught:
            fetch_checkpoint("r", store, home)
        assert caught.value.cause is Cause.BAD_INPUT
        return str(caught.value)

    record(state="failed")
    assert said().startswith("Run r has no checkpoint in ")
    record(trials=[Trial(run_id="t", settings={})])
    assert "Run r is a sweep: each of its settings is a run" in said()
    unchanged = {"run_id": "r", "trained_by": "q", "decision": "refused", "decided": now()}
    record(unchanged=unchanged | {"compared": "all"})
    assert "nothing has changed since run q, refused" in said()
    assert "`voc-train fetch q`" in said()
    outcome = Outcome(
        run_id="r", checkpoint="/home/checkpoint.pt", sha256="", weights_digest="", miou=0.5,
        iou={}, dice={}, report="", seconds={}, reused=(),
    )  # fmt: skip
    record(outcome=outcome)
    store.write("runs/r/pruned.json", Pruned(time=datetime(2026, 11, 2, tzinfo=UTC), why="old"))
    assert "Run r was pruned on 2026-11-02: its checkpoints were deleted" in said()
    assert "take the copy at /home/checkpoint.pt." in said()


def test_when_none_verifies_what_was_here_stays(store: Store, home: Path, tmp_path: Path) -> None:
    earlier = _save(store, tmp_path / "out", 1, 0.4)
    fetch_checkpoint("r", store, home)
    blob = "runs/r/checkpoints/00000001/checkpoint.pt"
    content = store.get(blob) or b""
    store.put(blob, content[:-1] + b"X")

    with pytest.raises(Failure, match=r"No checkpoint of run r has the sha256") as caught:
        fetch_checkpoint("r", store, home)
    assert caught.value.cause is Cause.CORRUPT
    assert checkpoint.verified(home) == earlier
    assert _names(home) == ["checkpoint.pt", "manifest.json"]


def test_when_none_verifies_nothing_comes(store: Store, home: Path, tmp_path: Path) -> None:
    saved = _save(store, tmp_path / "out", 1, 0.4)
    store.put("runs/r/checkpoints/00000001/checkpoint.pt", bytes(saved.size))
    with pytest.raises(Failure) as caught:
        fetch_checkpoint("r", store, home)
    assert caught.value.cause is Cause.CORRUPT
    assert _names(home) == []


def test_what_was_stopped_before_its_first_validation_comes_home_too(
    store: Store, home: Path, tmp_path: Path
) -> None:
    for step in (1, 2):
        _save(store, tmp_path / "out", step, None)
    assert fetch_checkpoint("r", store, home).step == 2
    _save(store, tmp_path / "out", 1, 0.1)  # any score is better than none
    assert fetch_checkpoint("r", store, home).step == 1


def test_a_run_without_a_checkpoint_is_wrong_input(store: Store, home: Path) -> None:
    with pytest.raises(Failure, match=r"no checkpoint of a run r .*`voc-train status`") as caught:
        fetch_checkpoint("r", store, home)
    assert caught.value.exit_code == 2
    assert not home.exists()


def _dataset(store: Store) -> Manifest:
    """Put a dataset's objects into the store; the photos do not matter for the way home."""
    shards = {"00000.tar": b"samples" * 1000, "00001.tar": b"more"}
    samples = (
        Sample(id=split, split=split, shard=shard, photo=(0, 1), mask=(1, 1), height=1, width=1)
        for shard, split in enumerate(("train", "val"))
    )
    index = "".join(f"{sample.model_dump_json()}\n" for sample in samples).encode()
    manifest = Manifest(
        key="abc",
        digest="d",
        classes=CLASSES,
        counts={"train": 1, "val": 1},
        pixels={},
        archives=("a",),
        max_side=None,
        shards=tuple(
            Shard(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())
            for name, data in shards.items()
        ),
        index_sha256=hashlib.sha256(index).hexdigest(),
        left_out={},
    )
    for name, data in shards.items():
        store.put(f"datasets/abc/shards/{name}", data)
    store.put("datasets/abc/index.jsonl", index)
    store.put("datasets/abc/manifest.json", manifest.model_dump_json().encode())
    return manifest


@pytest.fixture
def bucket(rgw: RGW, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name, value in rgw.environment().items():
        monkeypatch.setenv(name, value)
    name = "fetch-" + hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]
    return Store.open(f"s3://{rgw.create_bucket(name)}/prefix")


def test_a_checkpoint_comes_home_from_a_bucket(bucket: Store, home: Path, tmp_path: Path) -> None:
    best = _save(bucket, tmp_path / "out", 1, 0.4)
    _save(bucket, tmp_path / "out", 2, 0.9)
    bucket.delete("runs/r/checkpoints/00000002/checkpoint.pt")
    assert fetch_checkpoint("r", bucket, home) == best
    assert checkpoint.verified(home) == best


def test_a_dataset_comes_from_a_bucket_once(bucket: Store, tmp_path: Path) -> None:
    dataset = _dataset(bucket)
    folder = local_dataset(dataset, bucket, tmp_path / "cache")
    for entry in bucket.list("datasets/abc"):
        name = entry.key.removeprefix("datasets/abc/")
        assert (folder / name).read_bytes() == bucket.get(entry.key)

    bucket.delete("datasets/abc/shards/00000.tar")  # no longer needed
    assert local_dataset(dataset, bucket, tmp_path / "cache") == folder


@pytest.mark.parametrize("name", ["shards/00001.tar", "index.jsonl"])
def test_a_damaged_dataset_is_not_believed(bucket: Store, tmp_path: Path, name: str) -> None:
    dataset = _dataset(bucket)
    bucket.put(f"datasets/abc/{name}", b"MORE")
    with pytest.raises(Failure, match=rf"datasets/abc/{name} .*delete datasets/abc ") as caught:
        local_dataset(dataset, bucket, tmp_path / "cache")
    assert caught.value.cause is Cause.CORRUPT
    assert not list((tmp_path / "cache").rglob(f"{Path(name).name}*"))


@pytest.mark.parametrize("name", ["shards/00001.tar", "index.jsonl"])
def test_a_damaged_one_in_a_folder_is_not_believed(store: Store, tmp_path: Path, name: str) -> None:
    dataset = _dataset(store)
    store.put(f"datasets/abc/{name}", b"MORE")
    with pytest.raises(Failure, match=rf"{name} is damaged") as caught:
        local_dataset(dataset, store, tmp_path / "cache")
    assert caught.value.cause is Cause.CORRUPT


def test_a_dataset_in_a_folder_is_used_where_it_lies(store: Store, tmp_path: Path) -> None:
    folder = local_dataset(_dataset(store), store, tmp_path / "cache")
    assert folder == tmp_path / "store" / "datasets" / "abc"
    assert not (tmp_path / "cache").exists()


def test_the_job_names_every_input_with_its_hash(store: Store) -> None:
    dataset = _dataset(store)
    job = job_for(
        "r", RECIPE, dataset, store, device="cpu", workers=0, wandb="offline", deadline_seconds=60
    )
    for wanted in job.inputs:
        content = store.get(wanted.key) or b""
        assert wanted.size == len(content)
        assert wanted.sha256 == hashlib.sha256(content).hexdigest()
        assert wanted.path == wanted.key.replace("datasets/abc", "dataset")
    assert len(job.inputs) == 3
    assert type(RECIPE).model_validate_json(job.files["recipe.json"]) == RECIPE
    assert Manifest.model_validate_json(job.files["dataset/manifest.json"]) == dataset


@pytest.mark.parametrize("name", ["manifest.json", "index.jsonl"])
def test_there_is_no_job_on_a_dataset_that_is_gone(store: Store, name: str) -> None:
    dataset = _dataset(store)
    store.delete(f"datasets/abc/{name}")
    with pytest.raises(Failure, match=r"datasets/abc is no longer in") as caught:
        job_for("r", RECIPE, dataset, store, device="cpu", workers=0, wandb="", deadline_seconds=60)
    assert caught.value.cause is Cause.CORRUPT


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job that was really trained, with its best checkpoint."""
    job = write_job(tmp_path_factory.mktemp("trained") / "job")
    assert train(job, run_id="r", device="cpu")
    return job


def _best(job: Path) -> tuple[Path, CheckpointManifest]:
    folder = checkpoint.best(job / "out" / "checkpoints")
    assert folder
    manifest = checkpoint.verified(folder)
    assert manifest
    return folder, manifest


def test_the_score_is_trainings_own_to_the_last_bit(trained: Path) -> None:
    folder, manifest = _best(trained)
    again = evaluate_again(manifest, folder, trained / "dataset", device="cpu")
    assert again.score.miou == manifest.miou
    assert again.score.iou == manifest.iou
    assert again.predictions


@pytest.fixture
def another_thread_count() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("another_thread_count")
def test_another_score_on_the_same_computer_is_no_rounding(trained: Path) -> None:
    folder, manifest = _best(trained)
    assert manifest.miou is not None
    claimed = manifest.model_copy(update={"miou": manifest.miou + 1e-9})
    with pytest.raises(Failure, match="harmed on the way") as failed:
        evaluate_again(claimed, folder, trained / "dataset", device="cpu")
    assert failed.value.cause is Cause.CORRUPT


def test_other_hardware_may_round_otherwise_but_not_by_much(trained: Path) -> None:
    folder, manifest = _best(trained)
    assert manifest.miou is not None
    elsewhere = manifest.provenance.model_copy(update={"processor": "another"})
    near = manifest.model_copy(update={"provenance": elsewhere, "miou": manifest.miou + 0.005})
    far = manifest.model_copy(update={"provenance": elsewhere, "miou": manifest.miou + 0.02})
    evaluate_again(near, folder, trained / "dataset", device="cpu")
    with pytest.raises(Failure, match="harmed on the way"):
        evaluate_again(far, folder, trained / "dataset", device="cpu")
