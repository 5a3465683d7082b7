"""`voc-train lineage`: every link is verified, what does not fit is named, what is gone is said."""

import gzip
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from commands import VocTrain, in_this_process
from infra.failure import Cause, Failure
from infra.protocol import run_key
from infra.stores import Store
from model.checkpoint import CheckpointManifest
from model.dataset import Manifest
from model.errors import InputError
from model.train import train
from pipeline import preparation
from pipeline.champion import History, decide, promote_by_hand, reference, roll_back
from pipeline.dataset import dataset_prefix
from pipeline.lineage import lineage
from pipeline.parameters import Parameters
from pipeline.proofs import Lineage
from pipeline.run import Run, RunRecord
from pipeline.sample_archive import SAMPLE_CLASSES, write_sample_archive
from pipeline.stages.extract import extract
from pipeline.stages.fetch_checkpoint import fetch_checkpoint
from pipeline.stages.train import job_for
from reworked import other_weights, reworked


class Trained(NamedTuple):
    store: Store
    checkpoint: Path
    manifest: CheckpointManifest
    tar: Path  # what the archive unpacks to

    @property
    def archive(self) -> str:
        return self.manifest.archives[0]

    @property
    def dataset(self) -> str:
        return f"datasets/{self.manifest.dataset_key}"


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run in this process, from an archive of which the store keeps the tar."""
    folder = tmp_path_factory.mktemp("once")
    tar, packed = folder / "shapes.tar", folder / "shapes.tar.gz"
    write_sample_archive(tar, train=8, val=4, unlabelled=1)
    packed.write_bytes(gzip.compress(tar.read_bytes()))
    parameters = Parameters(
        archives=(str(packed),),
        recipe="tiny",
        overrides={"epochs": 1, "width": 4},
        classes=SAMPLE_CLASSES,
        store=str(folder / "store"),
    )
    run = Run(parameters, [])
    with run.recorded():
        dataset, archives = preparation.prepare_dataset(
            parameters, run.store, folder / "spool", [], needed=preparation.TO_TRAIN
        )
        run.prepared(dataset, {archive.sha256: archive.source for archive in archives})
        job = job_for(
            run.run_id, parameters.resolved_recipe(), dataset, run.store,
            device="cpu", workers=0, wandb="disabled", deadline_seconds=300,
        )  # fmt: skip
        run.store.write(run_key(run.run_id, "spec.json"), job)
        _train(folder / "job", run, dataset)
        manifest = fetch_checkpoint(run.run_id, run.store, folder)
    return Trained(run.store, folder / "checkpoint.pt", manifest, tar)


def _train(job: Path, run: Run, dataset: Manifest) -> None:
    """What an agent does."""
    job.mkdir()
    (job / "recipe.json").write_text(run.parameters.resolved_recipe().model_dump_json())
    there = run.store.local_path(dataset_prefix(dataset.key))
    assert there
    (job / "dataset").symlink_to(there)
    assert train(job, run_id=run.run_id, device="cpu")
    for path in (job / "out" / "checkpoints").rglob("*.*"):
        run.store.put_file(run_key(run.run_id, str(path.relative_to(job / "out"))), path)


@pytest.fixture
def trained(once: Trained, tmp_path: Path) -> Trained:
    """The same, to be harmed."""
    there = once.store.local_path("")
    assert there
    shutil.copytree(there, tmp_path / "store")
    return once._replace(store=Store.open(str(tmp_path / "store")))


@pytest.fixture
def voc_train(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[VocTrain]:
    yield from in_this_process(monkeypatch, capfd)


def states(found: Lineage) -> dict[str, str]:
    """Of everything that was looked at: `dataset index` to `verified`."""
    return {f"{link.kind} {one.what}": one.state for link in found.links for one in link.proofs}


WHOLE = dict.fromkeys(
    (
        "archive tar", "archive index", "dataset manifest", "dataset index",
        "dataset shard 00000.tar", "dataset content", "run record", "run job",
        "checkpoint file", "checkpoint weights", "checkpoint manifest",
    ),
    "verified",
)  # fmt: skip


def harm(store: Store, key: str) -> None:
    """Change one byte in the middle."""
    data = bytearray(store.get(key) or b"")
    data[len(data) // 2] ^= 1
    store.put(key, bytes(data))


def test_the_whole_chain_is_verified_with_its_hashes(trained: Trained, voc_train: VocTrain) -> None:
    said = voc_train("lineage", trained.checkpoint, "--store", trained.store.url)
    assert said.code == 0
    made = trained.manifest
    for hashed in (
        made.archives[0], made.dataset_key, made.dataset_digest, made.sha256, made.weights_digest
    ):  # fmt: skip
        assert hashed in said.out
    assert said.out.index("archive ") < said.out.index("dataset ") < said.out.index("run ")
    assert "champion   never" in said.out
    assert states(lineage(trained.checkpoint, trained.store)) == WHOLE


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("archives/{archive}.tar", "archive tar"),
        ("archives/{archive}.index.jsonl", "archive index"),
        ("{dataset}/manifest.json", "dataset manifest"),
        ("{dataset}/index.jsonl", "dataset index"),
        ("{dataset}/shards/00000.tar", "dataset shard 00000.tar"),
        ("{run}/run.json", "run record"),
        ("{run}/spec.json", "run job"),
    ],
)
def test_what_was_tampered_with_is_named(
    trained: Trained, voc_train: VocTrain, key: str, named: str
) -> None:
    key = key.format(
        archive=trained.archive, dataset=trained.dataset, run=run_key(trained.manifest.run_id)
    )
    harm(trained.store, key)
    damaged = {what for what, state in states(lineage(*at(trained))).items() if state == "damaged"}
    assert damaged == {named}
    said = voc_train("lineage", trained.checkpoint, "--store", trained.store.url, "--json")
    assert said.code == 1
    found = json.loads(said.out)
    assert found["cause"] == "CORRUPT"
    assert named.partition(" ")[2] in found["message"]
    assert voc_train("lineage", *at(trained)[:1], "--store", trained.store.url).code == 1


def at(trained: Trained) -> tuple[Path, Store]:
    return trained.checkpoint, trained.store


def test_samples_that_are_others_than_the_digest_says_are_found_though_every_hash_fits(
    trained: Trained,
) -> None:
    """Whoever writes shard, index and manifest anew cannot write the checkpoint's digest anew."""
    index = trained.store.get(f"{trained.dataset}/index.jsonl") or b""
    first, second, *others = index.splitlines(keepends=True)
    one, two = json.loads(first), json.loads(second)
    one["mask"], two["mask"] = two["mask"], one["mask"]
    swapped = b"".join(json.dumps(line).encode() + b"\n" for line in (one, two)) + b"".join(others)
    trained.store.put(f"{trained.dataset}/index.jsonl", swapped)
    manifest = trained.store.read(f"{trained.dataset}/manifest.json", Manifest)
    assert manifest
    fitting = manifest.model_copy(update={"index_sha256": hashlib.sha256(swapped).hexdigest()})
    trained.store.write(f"{trained.dataset}/manifest.json", fitting)
    assert states(lineage(*at(trained))) == WHOLE | {"dataset content": "damaged"}


def test_other_weights_and_another_file_are_found(trained: Trained, tmp_path: Path) -> None:
    other = reworked(
        trained.checkpoint, tmp_path / "other.pt", net=other_weights(trained.checkpoint)
    )
    found = lineage(other, trained.store)
    assert states(found) == WHOLE | {
        "checkpoint file": "damaged",
        "checkpoint weights": "damaged",
    }
    with pytest.raises(Failure, match=trained.manifest.weights_digest) as caught:
        found.must_hold()
    assert caught.value.cause is Cause.CORRUPT
    resaved = reworked(trained.checkpoint, tmp_path / "resaved.pt", miou=0.99)
    assert states(lineage(resaved, trained.store)) == WHOLE | {
        "checkpoint file": "damaged",
        "checkpoint manifest": "damaged",
    }


def test_a_record_of_another_training_is_none_of_this_checkpoint(trained: Trained) -> None:
    key = run_key(trained.manifest.run_id, "run.json")
    record = trained.store.read(key, RunRecord)
    assert record
    assert record.inputs
    recipe = record.inputs.recipe | {"lr": 0.5}
    inputs = record.inputs.model_copy(update={"recipe": recipe})
    trained.store.write(key, record.model_copy(update={"inputs": inputs}))
    assert states(lineage(*at(trained))) == WHOLE | {"run record": "damaged"}


@pytest.mark.parametrize(
    ("key", "missing"),
    [
        ("archives/{archive}.tar", {"archive tar"}),
        ("archives", {"archive tar", "archive index"}),
        ("{dataset}/shards", {"dataset shard 00000.tar", "dataset content"}),
        ("{run}/run.json", {"run record"}),
        ("{run}/checkpoints", {"checkpoint file", "checkpoint weights"}),
    ],
)
def test_what_is_gone_is_said_and_not_called_verified(
    trained: Trained, voc_train: VocTrain, key: str, missing: set[str]
) -> None:
    key = key.format(
        archive=trained.archive, dataset=trained.dataset, run=run_key(trained.manifest.run_id)
    )
    path = trained.store.local_path(key)
    assert path
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    found = states(lineage(*at(trained)))
    assert {what for what, state in found.items() if state != "verified"} == missing
    assert {found[what] for what in missing} == {"missing"}
    said = voc_train("lineage", trained.checkpoint, "--store", trained.store.url)
    assert said.code == 0
    assert said.out.count("missing: ") == len(missing)


def test_nothing_at_all_is_left(trained: Trained, tmp_path: Path) -> None:
    found = lineage(trained.checkpoint, Store.open(str(tmp_path / "empty")))
    assert set(states(found).values()) == {"missing"}


def test_an_archive_of_the_users_own_is_verified_where_it_lies(
    trained: Trained, tmp_path: Path
) -> None:
    own = tmp_path / "own.tar"
    own.write_bytes(trained.tar.read_bytes())
    trained.store.delete(f"archives/{trained.archive}.tar")
    extract(str(own), trained.store, tmp_path / "spool")
    assert states(lineage(*at(trained))) == WHOLE
    with own.open("r+b") as file:
        file.write(b"x")
    assert states(lineage(*at(trained))) == WHOLE | {"archive tar": "damaged"}
    own.unlink()
    assert states(lineage(*at(trained))) == WHOLE | {"archive tar": "missing"}


def test_what_became_of_it_as_champion(trained: Trained, tmp_path: Path) -> None:
    def reign() -> str:
        *_, champion = lineage(*at(trained)).links
        return champion.name

    assert reign() == "never"
    challenger = reference(trained.manifest)
    decide(trained.store, History.load(trained.store), "refused", challenger, "worse")
    assert reign() == "never"
    promote_by_hand(trained.store, trained.manifest.run_id, tmp_path / "promoted")
    assert reign() == "now"
    other = challenger.model_copy(update={"run_id": "260101-other"})
    decide(trained.store, History.load(trained.store), "promoted", other, "better")
    assert reign() == "formerly"
    roll_back(trained.store)
    assert reign() == "now"
    assert states(lineage(*at(trained))) == WHOLE | {
        "champion file": "verified",
        "champion weights": "verified",
    }
    foreign = challenger.model_copy(update={"weights_digest": "0" * 64})
    decide(trained.store, History.load(trained.store), "promoted", foreign, "better")
    assert states(lineage(*at(trained)))["champion weights"] == "damaged"


def test_a_damaged_decision_is_named(trained: Trained) -> None:
    trained.store.put("champions/000001-x-y.json", b"{")
    assert states(lineage(*at(trained))) == WHOLE | {"champion decisions": "damaged"}


@pytest.mark.parametrize(
    "hostile",
    [
        {"run_id": "../../elsewhere"},
        {"run_id": "\x1b[2J"},
        {"dataset_key": "../runs"},
        {"archives": ["../../etc/passwd"]},
        {"net": "weights"},
        {"net": {"a": 1}},
        {"net": {1: torch.zeros(1), "a": torch.zeros(1)}},
        {"net": {"a": torch.zeros(1).expand(1 << 40)}},
        {"net": {"a": torch.zeros(2, device="meta")}},
    ],
    ids=str,
)
def test_a_hostile_checkpoint_is_refused(
    trained: Trained, tmp_path: Path, hostile: dict[str, Any]
) -> None:
    path = reworked(trained.checkpoint, tmp_path / "hostile.pt", **hostile)
    with pytest.raises(InputError, match=r"hostile\.pt"):
        lineage(path, trained.store)
