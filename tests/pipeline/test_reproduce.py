"""`voc-train reproduce`: the same weights from the same inputs; what differs is named first."""

import json
from pathlib import Path
from typing import Any

import pytest

from commands import VocTrain
from infra.failure import Cause, Failure
from infra.protocol import JobSpec, run_key
from infra.stores import Store
from model.checkpoint import BLOB, MANIFEST, CheckpointManifest, parse_manifest
from pipeline.reproduce import must_have_come_out, plan
from pipeline.run_record import RunRecord
from pipeline.sample_archive import write_sample_archive
from reworked import other_weights, reworked
from trained import Trained, trained_on

_STEP = 5  # in the middle of the second of two epochs


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "shapes.tar"
    write_sample_archive(path, train=24, val=4, unlabelled=1)
    return path


@pytest.fixture(scope="module")
def made(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained_on(archive, tmp_path_factory.mktemp("made"), epochs=2, lr=1e-3)


def kept(made: Trained) -> Path:
    """The checkpoint of `_STEP`, which is neither the best nor the last."""
    key = run_key(made.outcome.run_id, "checkpoints", f"{_STEP:08d}", BLOB)
    path = made.store.local_path(key)
    assert path
    return path


def manifest_of(store: Store, run_id: str, step: int) -> CheckpointManifest:
    data = store.get(run_key(run_id, "checkpoints", f"{step:08d}", MANIFEST))
    manifest = parse_manifest(data) if data else None
    assert manifest
    return manifest


@pytest.mark.usefixtures("flows")
def test_a_step_inside_an_epoch_comes_out_the_same(
    made: Trained, archive: Path, voc_train: VocTrain
) -> None:
    done = voc_train("reproduce", kept(made), "--store", made.store.url, "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out.splitlines()[-1])
    assert said["run_id"] != made.outcome.run_id
    first = manifest_of(made.store, made.outcome.run_id, _STEP)
    again = manifest_of(made.store, said["run_id"], _STEP)
    assert said["weights_digest"] == again.weights_digest == first.weights_digest
    assert first.miou is None  # it was not scored: it is neither the best nor the last
    record = made.store.read(run_key(said["run_id"], "run.json"), RunRecord)
    assert record
    job = made.store.read(run_key(said["run_id"], "spec.json"), JobSpec)
    assert job
    assert "--threads 1" in " ".join(job.argv)
    assert record.parameters["archives"] == [f"{archive}#sha256={first.archives[0]}"]


def test_a_check_says_what_made_it_and_trains_nothing(made: Trained, voc_train: VocTrain) -> None:
    runs = made.store.folders("runs")
    said = voc_train("reproduce", made.checkpoint, "--store", made.store.url, "--check")
    assert said.code == 0, said.err
    assert "Nothing was trained." in said.out
    assert "*" not in said.out  # nothing differs, so that nothing is marked
    best = made.manifest
    provenance = best.provenance
    for word in (
        provenance.code, *provenance.libraries, *provenance.libraries.values(), provenance.python,
        provenance.processor, provenance.precision, *best.archives, best.dataset_digest,
    ):  # fmt: skip
        assert word in said.out
    lines = {tuple(line.split()) for line in said.out.splitlines()}
    assert {
        ("recipe", "seed", "0"), ("recipe", "lr", "0.001"), ("recipe", "epochs", "2"),
        ("threads", "1"), ("device", "cpu"),
    } <= lines  # fmt: skip
    assert made.store.folders("runs") == runs


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"provenance__code": "0123456789ab"}, "code"),
        ({"provenance__python": "2.7"}, "python"),
        ({"provenance__libraries__torch": "1.0"}, "library torch"),
        ({"recipe__lr": 0.5}, "recipe lr"),
        ({"recipe__seed": 7}, "recipe seed"),
        ({"max_side": 8, "dataset_digest": "0" * 64}, "dataset digest"),
        ({"archives": ["0" * 64]}, "archive"),
        ({"classes": ["background", "b", "c", "d"]}, "classes"),
    ],
)
def test_what_is_another_here_is_named_and_refused(
    made: Trained, voc_train: VocTrain, tmp_path: Path, said: dict[str, Any], named: str
) -> None:
    path = reworked(made.checkpoint, tmp_path / "other.pt", **said)
    runs = made.store.folders("runs")
    checked = voc_train("reproduce", path, "--store", made.store.url, "--check", "--json")
    assert checked.code == 2
    compared = json.loads(checked.out)["compared"]
    assert {one["what"] for one in compared if not one["same"]} == {named}
    refused = voc_train("reproduce", path, "--store", made.store.url, "--anyway")
    assert refused.code == 2
    assert f"This is not what made {path}: {named} " in refused.err
    assert made.store.folders("runs") == runs


def test_training_gets_as_many_threads_as_it_had(made: Trained, tmp_path: Path) -> None:
    path = reworked(made.checkpoint, tmp_path / "other.pt", provenance__threads=3)
    planned = plan(path, made.store, {}, [])
    assert planned.must_be_the_same(anyway=False).threads == 3


@pytest.mark.parametrize("what", ["processor", "device", "precision"])
def test_other_hardware_is_refused_unless_it_shall_be_tried_anyway(
    made: Trained, voc_train: VocTrain, tmp_path: Path, what: str
) -> None:
    path = reworked(made.checkpoint, tmp_path / "other.pt", **{f"provenance__{what}": "Another"})
    command = ("reproduce", path, "--store", made.store.url, "--check")
    refused = voc_train(*command)
    assert refused.code == 2
    assert f"made on other hardware: {what} Another, here " in refused.err
    assert voc_train(*command, "--anyway").code == 0


def test_an_archive_that_has_changed_or_gone_is_named(
    made: Trained, voc_train: VocTrain, tmp_path: Path
) -> None:
    changed = tmp_path / "changed.tar"
    write_sample_archive(changed, train=24, val=4, unlabelled=2)
    command = ("reproduce", made.checkpoint, "--store", made.store.url, "--check", "--archive")
    said = voc_train(*command, changed)
    assert said.code == 2
    assert f"archive {made.manifest.archives[0]}, here –" in said.err
    gone = voc_train(*command, tmp_path / "gone.tar")
    assert gone.code == 2
    assert f"{tmp_path}/gone.tar does not exist" in gone.err


def test_without_the_record_of_its_run_the_archives_have_to_be_named(
    made: Trained, archive: Path, voc_train: VocTrain, tmp_path: Path
) -> None:
    command = ("reproduce", made.checkpoint, "--store", tmp_path / "store", "--check")
    said = voc_train(*command)
    assert said.code == 2
    assert f"no record of run {made.outcome.run_id}" in said.err
    assert "--archive" in said.err
    assert made.manifest.archives[0] in said.out  # what made it is said all the same
    assert voc_train(*command, "--archive", archive).code == 0


def test_other_weights_end_with_both_digests(made: Trained, tmp_path: Path) -> None:
    best = made.checkpoint
    same = plan(best, made.store, {}, [])
    assert must_have_come_out(same, made.outcome, made.store).weights_digest == (
        made.outcome.weights_digest
    )
    path = reworked(best, tmp_path / "other.pt", net=other_weights(best))
    other = plan(path, made.store, {}, [])
    with pytest.raises(Failure) as caught:
        must_have_come_out(other, made.outcome, made.store)
    assert caught.value.cause is Cause.NOT_REPRODUCED
    assert made.outcome.weights_digest in str(caught.value)
    assert other.file.weights_digest in str(caught.value)


def test_the_best_has_to_come_out_as_the_best(made: Trained) -> None:
    same = plan(made.checkpoint, made.store, {}, [])
    another = made.outcome.model_copy(update={"weights_digest": "0" * 64})
    with pytest.raises(Failure, match="the best of the run are now others"):
        must_have_come_out(same, another, made.store)
    unscored = plan(kept(made), made.store, {}, [])
    must_have_come_out(unscored, another, made.store)
