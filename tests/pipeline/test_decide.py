"""A challenger is held against the champion on photos that neither was trained on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from infra.claims import Claim
from infra.failure import Cause, Failure
from infra.protocol import now
from infra.stores import Store
from model import checkpoint as checkpoints
from model.checkpoint import CheckpointManifest
from model.errors import InputError
from model.manifest import Manifest
from model.recipes import named
from model.train import train
from pipeline.champion import Checkpoint, Decision, History, decide, promote_by_hand, reference
from pipeline.dataset import dataset_prefix
from pipeline.inputs import Inputs
from pipeline.parameters import Parameters
from pipeline.preparation import TO_TRAIN, prepare_dataset
from pipeline.run_record import recorded_run
from pipeline.sample_archive import SAMPLE_CLASSES, write_sample_archive
from pipeline.stages import fetch_checkpoint
from pipeline.stages.decide import (
    Settled,
    decided_earlier,
    must_be_comparable,
    must_not_fail_again,
    rival,
    settle,
)

WEAK, GOOD = "260101-weak0", "260102-good0"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else decides here, unless a test does."""
    monkeypatch.setattr("pipeline.champion._SETTLED", 0.0)


class Trained(NamedTuple):
    """A store with a dataset and the checkpoints of two runs, and what they were made from."""

    store: Store
    dataset: Manifest
    inputs: dict[str, Inputs]

    def manifest(self, run: str) -> CheckpointManifest:
        (step,) = self.store.folders(f"runs/{run}/checkpoints")
        data = self.store.get(f"runs/{run}/checkpoints/{step}/{checkpoints.MANIFEST}")
        return CheckpointManifest.model_validate_json(data or b"")

    def blob(self, run: str) -> Path:
        path = self.store.local_path(f"{reference(self.manifest(run)).key}/{checkpoints.BLOB}")
        assert path
        return path

    def promote(self, run: str) -> History:
        return promote_by_hand(self.store, run, self.blob(run).parents[5] / "fetched" / run)

    def settle(self, run: str, **terms: object) -> Settled:
        folder = self.store.local_path(dataset_prefix(self.dataset.key))
        assert folder
        return settle(
            self.store,
            self.dataset,
            folder,
            self.manifest(run),
            self.blob(run),
            self.inputs[run],
            folder.parents[2] / "fetched",
            **({"passes": True} | terms),  # type: ignore[arg-type]
        )

    def earlier(self, run: str, **asked: object) -> Decision | None:
        recipe = self.manifest(run).recipe.override(asked)
        return decided_earlier(self.store, self.inputs[run], recipe)

    def rival(self) -> frozenset[str] | None:
        return rival(self.store, self.dataset, self.blob(WEAK).parents[5] / "fetched").only


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One epoch, and twelve, of a narrow net on real shapes."""
    folder = tmp_path_factory.mktemp("decide")
    write_sample_archive(folder / "shapes.tar", train=40, val=12, unlabelled=1)
    store = Store.open(str(folder / "store"))
    parameters = Parameters(
        archives=(str(folder / "shapes.tar"),), classes=SAMPLE_CLASSES, store=store.url
    )
    dataset, _ = prepare_dataset(parameters, store, folder / "spool", (), needed=TO_TRAIN)
    inputs = {}
    for run, epochs in ((WEAK, 1), (GOOD, 12)):
        recipe = named("tiny").override({"epochs": epochs, "batch_size": 4, "width": 4})
        job = folder / run
        job.mkdir()
        here = store.local_path(dataset_prefix(dataset.key))
        assert here
        (job / "dataset").symlink_to(here)
        (job / "recipe.json").write_text(recipe.model_dump_json())
        train(job, run_id=run)
        best = checkpoints.best(job / "out/checkpoints")
        assert best
        shutil.copytree(best, folder / "store/runs" / run / "checkpoints" / best.name)
        inputs[run] = Inputs.of(dataset, recipe)
        record = {
            "run_id": run,
            "state": "done",
            "started": "2026-01-01T00:00:00Z",
            "parameters": parameters.model_dump(mode="json"),
            "inputs": inputs[run].model_dump(mode="json"),
        }
        store.put(f"runs/{run}/run.json", json.dumps(record).encode())
    return Trained(store, dataset, inputs)


@pytest.fixture
def trained(original: Trained, tmp_path: Path) -> Trained:
    """A copy that a test may harm."""
    folder = original.store.local_path("")
    assert folder
    shutil.copytree(folder, tmp_path / "store")
    return original._replace(store=Store.open(str(tmp_path / "store")))


def champion_of(trained: Trained) -> str | None:
    champion = History.load(trained.store).champion
    return champion.checkpoint.run_id if champion else None


def test_the_first_has_to_beat_background_everywhere(trained: Trained) -> None:
    settled = trained.settle(GOOD)
    assert settled.decision.kind == "promoted"
    assert settled.decision.verdict
    assert settled.decision.verdict.low > 0
    assert champion_of(trained) == GOOD


def test_worse_is_refused_and_better_promoted(trained: Trained) -> None:
    trained.promote(WEAK)
    assert trained.settle(GOOD).decision.kind == "promoted"
    assert trained.settle(WEAK).decision.kind == "refused"
    assert champion_of(trained) == GOOD
    first, second, third = History.load(trained.store).decisions
    assert (second.over, third.over) == (first.name, second.name)


def test_what_fails_its_own_gate_is_not_promoted_however_good(trained: Trained) -> None:
    settled = trained.settle(GOOD, passes=False)
    assert settled.decision.kind == "refused"
    assert "min_miou" in settled.decision.said
    assert champion_of(trained) is None


def test_a_decision_is_made_once(trained: Trained) -> None:
    decision = trained.settle(GOOD).decision
    again = trained.settle(GOOD)
    assert (again.decision, again.comparison) == (decision, None)
    assert len(History.load(trained.store).decisions) == 1


def test_whoever_became_champion_meanwhile_is_the_one_to_beat(trained: Trained) -> None:
    """Both beat background; the one who comes second has to beat the one who came first."""
    good = trained.manifest(GOOD)
    twin = reference(good.model_copy(update={"run_id": "260103-twin0"}))
    trained.store.put_file(f"{twin.key}/{checkpoints.BLOB}", trained.blob(GOOD))
    history = History.load(trained.store)
    first = iter((twin,))

    def meanwhile(_done: float, _total: float | None, _note: str = "") -> None:
        for one in first:
            decide(trained.store, history, "promoted", one, "")

    decision = trained.settle(GOOD, report=meanwhile).decision
    history = History.load(trained.store)
    assert champion_of(trained) == "260103-twin0"
    assert history.champion
    assert (decision.kind, decision.over) == ("refused", history.champion.name)
    assert [one.kind for one in history.decisions] == ["promoted", "refused"]


def test_the_same_inputs_are_known(trained: Trained) -> None:
    assert trained.earlier(GOOD) is None
    decision = trained.settle(GOOD).decision
    assert trained.earlier(GOOD) == decision
    assert trained.earlier(WEAK) is None


def test_who_was_refused_by_another_champion_may_try_again(trained: Trained) -> None:
    trained.settle(GOOD)
    refused = trained.settle(WEAK).decision
    assert refused.kind == "refused"
    assert trained.earlier(WEAK) == refused
    assert trained.earlier(WEAK, promotion_class_drop=0.5) is None  # it may pass now
    assert trained.earlier(GOOD, promotion_class_drop=0.5)  # it has passed
    history = History.load(trained.store)
    decide(trained.store, history, "promoted", reference(trained.manifest(GOOD)), "", by_hand=True)
    assert trained.earlier(WEAK) is None


def ended(trained: Trained, run: str, day: int, cause: Cause | None, **values: object) -> None:
    """A run of the same inputs and parameters that ended so."""
    record = recorded_run(trained.store, WEAK).model_dump(mode="json") | {
        "run_id": run, "started": f"2026-02-{day:02d}T00:00:00Z", "message": f"{run} said why.",
        "state": "failed" if cause else "done", "cause": cause,
    }  # fmt: skip
    trained.store.put(f"runs/{run}/run.json", json.dumps(record | values).encode())


def refused(trained: Trained, **asked: object) -> str:
    """Why another run of the weak one's inputs is not tried; nothing where it is."""
    recorded = recorded_run(trained.store, WEAK)
    parameters = Parameters.model_validate(recorded.parameters | asked)
    try:
        must_not_fail_again(trained.store, "260301-again", trained.inputs[WEAK], parameters)
    except Failure as failure:
        return f"{failure.cause}: {failure}"
    return ""


def test_what_failed_by_itself_is_not_paid_for_again(trained: Trained) -> None:
    assert not refused(trained)
    ended(trained, "260201-memor", 1, Cause.OUT_OF_MEMORY)
    ended(trained, "260202-skips", 2, Cause.OUT_OF_MEMORY)  # which was refused for the first
    assert refused(trained).startswith("OUT_OF_MEMORY: Run 260201-memor of 2026-02-01")
    assert refused(trained).endswith("260201-memor said why.")
    assert not refused(trained, limits={"train_hours": 3})
    assert not refused(trained, archives=["other.tar"])


def test_what_failed_by_the_way_may_succeed_the_next_time(trained: Trained) -> None:
    ended(trained, "260201-memor", 1, Cause.OUT_OF_MEMORY)
    ended(trained, "260202-stall", 2, Cause.STALLED)
    assert not refused(trained)
    ended(trained, "260203-ended", 3, Cause.DEADLINE)
    assert refused(trained).startswith("DEADLINE: Run 260203-ended")
    ended(trained, "260204-whole", 4, None)
    assert not refused(trained)


def test_what_failed_with_more_money_fails_with_less(trained: Trained) -> None:
    asked = recorded_run(trained.store, WEAK).parameters
    generous = {"rental": asked["rental"] | {"budget": 8, "ssh_from": ["203.0.113.7/32"]}}
    ended(trained, "260201-later", 1, Cause.DEADLINE, parameters=asked | generous)  # as resumed
    assert refused(trained, rental={"budget": 5})
    assert not refused(trained, rental={"budget": 9})


def test_what_failed_though_it_was_forced_counts_as_well(trained: Trained) -> None:
    asked = recorded_run(trained.store, WEAK).parameters | {"promote": True}
    ended(trained, "260201-memor", 1, Cause.OUT_OF_MEMORY, parameters=asked | {"force": True})
    assert refused(trained, promote=True)
    assert not refused(trained)  # which would not have been compared


def test_what_failed_of_other_inputs_says_nothing(trained: Trained) -> None:
    other = trained.inputs[GOOD].model_dump(mode="json")
    ended(trained, "260201-memor", 1, Cause.OUT_OF_MEMORY, inputs=other)
    assert not refused(trained)


def test_other_classes_are_refused_before_anything_is_done(trained: Trained) -> None:
    must_be_comparable(trained.store, ("whatever", "there", "is"))
    trained.promote(GOOD)
    must_be_comparable(trained.store, SAMPLE_CLASSES)
    with pytest.raises(InputError, match="store of its own"):
        must_be_comparable(trained.store, (*SAMPLE_CLASSES[:-1], "other"))


def test_promoting_by_hand_wants_another_than_the_champion(trained: Trained) -> None:
    history = trained.promote(GOOD)
    assert history.champion
    assert history.champion.inputs == trained.inputs[GOOD]
    with pytest.raises(InputError, match="champion already"):
        trained.promote(GOOD)
    with pytest.raises(Failure, match="260103-none0"):
        promote_by_hand(trained.store, "260103-none0", trained.blob(GOOD).parents[5] / "none")


def test_who_is_promoted_while_a_person_s_choice_comes_home_comes_before_it(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = fetch_checkpoint.fetch_checkpoint

    def comes_home(*asked: Any) -> CheckpointManifest:
        manifest = fetch(*asked)
        history = History.load(trained.store)
        decide(trained.store, history, "promoted", reference(trained.manifest(GOOD)), "")
        return manifest

    monkeypatch.setattr("pipeline.stages.fetch_checkpoint.fetch_checkpoint", comes_home)
    history = trained.promote(WEAK)
    assert [one.checkpoint.run_id for one in history.line] == [GOOD, WEAK]


def test_a_run_that_somebody_drives_is_not_promoted_by_hand(trained: Trained) -> None:
    claim = Claim(owner="other", where="there", time=now(), rank=1)
    key = f"runs/{WEAK}/claims/other.json"

    def renews(_line: str) -> None:
        trained.store.write(key, claim)

    trained.store.write(key, claim)
    with pytest.raises(Failure) as caught:
        promote_by_hand(trained.store, WEAK, trained.blob(WEAK).parents[5] / "mine", renews)
    assert caught.value.cause is Cause.CLAIMED
    assert champion_of(trained) is None


def _missing(blob: Path) -> None:
    blob.unlink()


def _cut(blob: Path) -> None:
    blob.write_bytes(blob.read_bytes()[:-1])


def _changed(blob: Path) -> None:
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)


@pytest.mark.parametrize("harm", [_missing, _cut, _changed])
def test_a_champion_that_is_harmed_is_named_and_stays_champion(
    trained: Trained, harm: Callable[[Path], None]
) -> None:
    trained.promote(WEAK)
    harm(trained.blob(WEAK))
    with pytest.raises(Failure, match="voc-train rollback") as caught:
        trained.settle(GOOD)
    assert caught.value.cause is Cause.CORRUPT
    assert champion_of(trained) == WEAK
    assert len(History.load(trained.store).decisions) == 1


def with_split(trained: Trained, split: Callable[[str, int], str]) -> Trained:
    """The same with a champion that was trained on the photos so divided."""
    key = "0" * 32
    lines = (
        trained.store.get(f"{dataset_prefix(trained.dataset.key)}/index.jsonl") or b""
    ).decode()
    samples = [json.loads(line) for line in lines.splitlines()]
    for position, sample in enumerate(samples):
        sample["split"] = split(sample["split"], position)
    index = "\n".join(map(json.dumps, samples)).encode()
    trained.store.put(f"{dataset_prefix(key)}/index.jsonl", index)
    history = History.load(trained.store)
    kept = reference(trained.manifest(WEAK))
    elsewhere = Checkpoint(**kept.model_dump() | {"dataset_key": key, "dataset_digest": "another"})
    decide(trained.store, history, "promoted", elsewhere, "")
    return trained


def test_photos_that_the_champion_was_trained_on_do_not_count(trained: Trained) -> None:
    turned = {"val": "train"}
    with_split(trained, lambda split, position: turned.get(split, split) if position % 2 else split)
    only = trained.rival()
    assert only is not None
    assert 2 <= len(only) < trained.dataset.counts["val"]
    verdict = trained.settle(GOOD).decision.verdict
    assert verdict
    assert verdict.images == len(only)


def test_nothing_is_compared_where_the_champion_was_trained_on_all_of_it(trained: Trained) -> None:
    with_split(trained, lambda _split, _position: "train")
    with pytest.raises(InputError, match="0 photo"):
        trained.rival()


def test_nothing_is_compared_where_nobody_knows_what_the_champion_saw(trained: Trained) -> None:
    with_split(trained, lambda split, _position: split)
    trained.store.delete(f"{dataset_prefix('0' * 32)}/index.jsonl")
    with pytest.raises(Failure, match=r"index\.jsonl"):
        trained.rival()
