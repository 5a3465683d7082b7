"""`voc-train lineage`: every link is verified, what does not fit is named, what is gone is said."""

import gzip
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from commands import VocTrain
from infra.failure import Cause, Failure
from infra.protocol import checkpoint_key, run_key
from infra.stores import Store
from model.errors import InputError
from model.manifest import Manifest
from pipeline.champion import History, decide, promote_by_hand, reference, roll_back
from pipeline.dataset import dataset_prefix
from pipeline.lineage import lineage
from pipeline.proofs import Lineage
from pipeline.run_record import RunRecord
from pipeline.sample_archive import write_sample_archive
from pipeline.stages.extract import extract
from reworked import other_weights, reworked
from trained import Trained, trained_on


@pytest.fixture(scope="module")
def tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "shapes.tar"
    write_sample_archive(path, train=8, val=4, unlabelled=1)
    return path


@pytest.fixture(scope="module")
def once(tar: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run from an archive of which the store keeps the tar, as it came packed."""
    packed = tar.with_name("shapes.tar.gz")
    packed.write_bytes(gzip.compress(tar.read_bytes()))
    return trained_on(packed, tmp_path_factory.mktemp("once"), epochs=1)


@pytest.fixture
def trained(once: Trained, tmp_path: Path) -> Trained:
    """The same, to be harmed."""
    there = once.store.local_path("")
    assert there
    shutil.copytree(there, tmp_path / "store")
    return once._replace(store=Store.open(str(tmp_path / "store")))


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
    key = in_store(trained, key)
    harm(trained.store, key)
    damaged = {what for what, state in states(lineage(*at(trained))).items() if state == "damaged"}
    assert damaged == {named}
    said = voc_train("lineage", trained.checkpoint, "--store", trained.store.url, "--json")
    assert said.code == 1
    found = json.loads(said.out)
    assert found["cause"] == "CORRUPT"
    assert named.partition(" ")[2] in found["message"]
    assert voc_train("lineage", *at(trained)[:1], "--store", trained.store.url).code == 1


def in_store(trained: Trained, key: str) -> str:
    """A key that names the run's own archive, dataset and run."""
    made = trained.manifest
    return key.format(
        archive=made.archives[0],
        dataset=dataset_prefix(made.dataset_key),
        run=run_key(made.run_id),
    )


def at(trained: Trained) -> tuple[Path, Store]:
    return trained.checkpoint, trained.store


def test_samples_that_are_others_than_the_digest_says_are_found_though_every_hash_fits(
    trained: Trained,
) -> None:
    """Whoever writes shard, index and manifest anew cannot write the checkpoint's digest anew."""
    dataset = dataset_prefix(trained.manifest.dataset_key)
    index = trained.store.get(f"{dataset}/index.jsonl") or b""
    first, second, *others = index.splitlines(keepends=True)
    one, two = json.loads(first), json.loads(second)
    one["mask"], two["mask"] = two["mask"], one["mask"]
    swapped = b"".join(json.dumps(line).encode() + b"\n" for line in (one, two)) + b"".join(others)
    trained.store.put(f"{dataset}/index.jsonl", swapped)
    manifest = trained.store.read(f"{dataset}/manifest.json", Manifest)
    assert manifest
    fitting = manifest.model_copy(update={"index_sha256": hashlib.sha256(swapped).hexdigest()})
    trained.store.write(f"{dataset}/manifest.json", fitting)
    assert states(lineage(*at(trained))) == WHOLE | {"dataset content": "damaged"}


@pytest.mark.parametrize("other", [{"digest": "0" * 64}, {"archives": ("0" * 64,)}], ids=str)
def test_a_manifest_of_another_dataset_is_none_of_this_checkpoint(
    trained: Trained, other: dict[str, Any]
) -> None:
    key = in_store(trained, "{dataset}/manifest.json")
    manifest = trained.store.read(key, Manifest)
    assert manifest
    trained.store.write(key, manifest.model_copy(update=other))
    assert states(lineage(*at(trained))) == WHOLE | {"dataset manifest": "damaged"}


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
    key = in_store(trained, key)
    path = trained.store.local_path(key)
    assert path
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    found = states(lineage(*at(trained)))
    assert {what for what, state in found.items() if state != "verified"} == missing
    assert {found[what] for what in missing} == {"missing"}
    said = voc_train("lineage", trained.checkpoint, "--store", trained.store.url)
    assert said.code == 0
    assert said.out.count("not verified: ") == len(missing)


def test_nothing_at_all_is_left(trained: Trained, tmp_path: Path) -> None:
    found = lineage(trained.checkpoint, Store.open(str(tmp_path / "empty")))
    assert set(states(found).values()) == {"missing"}


def test_an_archive_of_the_users_own_is_verified_where_it_lies(
    trained: Trained, tar: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own.tar"
    own.write_bytes(tar.read_bytes())
    trained.store.delete(in_store(trained, "archives/{archive}.tar"))
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
    other = challenger.model_copy(
        update={
            "run_id": "260101-other",
            "key": checkpoint_key("260101-other", challenger.step),
        }
    )
    decide(trained.store, History.load(trained.store), "promoted", other, "better")
    assert reign() == "formerly"
    roll_back(trained.store)
    assert reign() == "now"
    said = lineage(*at(trained)).links[-1].said
    assert [word for word in said.split() if word in ("from", "to", "since", "refused")] == [
        "from", "to", "since", "refused",
    ]  # fmt: skip
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
