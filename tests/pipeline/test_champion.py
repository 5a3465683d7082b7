"""The champion follows from a listing that nobody changes: two at once lose nothing."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from commands import VocTrain, in_this_process
from infra.failure import Cause, Failure
from infra.protocol import now, run_key
from infra.stores import Store
from model.errors import InputError
from pipeline import champion
from pipeline.champion import Checkpoint, Decision, History, Kind, decide, must_be_there, roll_back
from pipeline.inputs import Inputs

INPUTS = Inputs(archives=("a",), dataset="d", recipe={"lr": 0.1}, code="c", libraries={"x": "1"})


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else decides here, unless a test does."""
    monkeypatch.setattr(champion.time, "sleep", lambda _seconds: None)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


@pytest.fixture
def voc_train(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[VocTrain]:
    yield from in_this_process(monkeypatch, capfd)


def checkpoint(run: str, store: Store | None = None) -> Checkpoint:
    key = run_key(run, "checkpoints", "00000007")
    if store:
        store.put(f"{key}/checkpoint.pt", run.encode())
    return Checkpoint(
        run_id=run,
        step=7,
        key=key,
        size=len(run),
        sha256="0" * 64,
        weights_digest="1" * 64,
        miou=0.5,
        classes=("background", "cat"),
        dataset_key="k",
        dataset_digest="d",
    )


@pytest.mark.parametrize("run", ["", "a/b", "..", "é", "a b", "r" * 41])
def test_what_cannot_be_a_runs_id_is_no_checkpoints(run: str) -> None:
    with pytest.raises(ValidationError, match="run_id"):
        checkpoint(run)


def promoted(store: Store, *runs: str, by_hand: bool = False) -> History:
    history = History.load(store)
    for run in runs:
        _, history = decide(store, history, "promoted", checkpoint(run, store), "", by_hand=by_hand)
    return history


def champion_of(history: History) -> str | None:
    return history.champion.checkpoint.run_id if history.champion else None


def test_nobody_at_first(store: Store) -> None:
    assert History.load(store).champion is None


def test_the_latest_promotion_makes_the_champion(store: Store) -> None:
    assert champion_of(promoted(store, "a", "b")) == "b"
    assert champion_of(History.load(store)) == "b"


def test_a_refusal_changes_nothing(store: Store) -> None:
    history = promoted(store, "a")
    _, after = decide(store, history, "refused", checkpoint("b"), "worse")
    assert champion_of(after) == "a"
    assert [one.kind for one in after.counting] == ["promoted", "refused"]


def test_of_two_at_once_one_counts_and_both_are_kept(store: Store) -> None:
    history = promoted(store, "a")
    first, _ = decide(store, history, "promoted", checkpoint("b"), "")
    second, after = decide(store, history, "promoted", checkpoint("c"), "")
    assert first.number == second.number
    assert len(after.decisions) == 3
    assert [one in after.counting for one in (first, second)] == [True, False]
    assert champion_of(after) == "b"
    # and who lost may be promoted over the one who won
    assert champion_of(promoted(store, "c")) == "c"


def test_one_that_is_displaced_by_another_of_the_same_moment_knows_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other has read the history before, writes after it, and comes first in the order."""
    history = promoted(store, "a")
    first = Decision(
        name="000002-b-!", number=2, kind="promoted", time=now(), said="",
        checkpoint=checkpoint("b"), over=history.decisions[0].name,
    )  # fmt: skip
    key = f"champions/{first.name}.json"
    monkeypatch.setattr(champion.time, "sleep", lambda _seconds: store.write(key, first))
    mine, after = decide(store, history, "promoted", checkpoint("c"), "")
    assert mine not in after.counting
    assert champion_of(after) == "b"


def test_the_longer_the_history_takes_to_read_the_longer_is_waited(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(champion.time, "sleep", waited.append)
    history = promoted(store, "a")
    slow = History(history.decisions, asked=history.asked - 10)
    decide(store, slow, "promoted", checkpoint("b"), "")
    assert waited[0] < 20 < waited[1]


def test_a_person_s_promotion_counts_whoever_is_champion_by_then(store: Store) -> None:
    history = promoted(store, "a")
    promoted(store, "b")
    _, after = decide(store, history, "promoted", checkpoint("c"), "", by_hand=True)
    assert champion_of(after) == "c"


def test_rolling_back_goes_back_step_by_step(store: Store) -> None:
    promoted(store, "a", "b", "c")
    assert champion_of(roll_back(store)) == "b"
    assert champion_of(roll_back(store)) == "a"
    with pytest.raises(InputError, match="after nobody"):
        roll_back(store)
    assert champion_of(promoted(store, "d")) == "d"
    assert champion_of(roll_back(store)) == "a"


def test_what_became_of_a_run_is_said(store: Store) -> None:
    history = promoted(store, "a", "b", "c")
    decide(store, history, "refused", checkpoint("d"), "")
    roll_back(store)
    after = History.load(store)
    said = {run: after.standing(run) for run in "abcde"}
    assert said == {
        "a": "champion before", "b": "champion", "c": "rolled-back", "d": "refused", "e": ""
    }  # fmt: skip


def test_a_decision_knows_the_run_that_was_champion(store: Store) -> None:
    history = promoted(store, "261121-4k2ra")
    assert history.decisions[0].over_run is None
    refused, _ = decide(store, history, "refused", checkpoint("b"), "")
    assert refused.over_run == "261121-4k2ra"


@pytest.mark.parametrize("blob", [None, b"another"])
def test_the_command_warns_of_a_champion_without_its_file(
    store: Store, voc_train: VocTrain, blob: bytes | None
) -> None:
    command = ("champion", "--store", store.url)
    champion = promoted(store, "a").champion
    assert champion
    assert voc_train(*command).err == ""
    assert json.loads(voc_train(*command, "--json").out)["problem"] is None
    key = f"{champion.checkpoint.key}/checkpoint.pt"
    store.delete(key) if blob is None else store.put(key, blob)
    said = voc_train(*command)
    assert said.code == 0
    assert "run a, step 7" in said.out
    assert f"The champion's checkpoint {key} in " in said.err
    assert key in json.loads(voc_train(*command, "--json").out)["problem"]


def test_there_is_nothing_to_roll_back_without_a_champion(store: Store) -> None:
    with pytest.raises(InputError, match="no champion"):
        roll_back(store)


def test_two_roll_backs_at_once_go_back_one_step(store: Store) -> None:
    history = promoted(store, "a", "b", "c")
    for _ in range(2):
        decide(store, history, "rolled-back", checkpoint("c"), "", by_hand=True)
    assert champion_of(History.load(store)) == "b"


def test_it_goes_back_only_to_what_is_there(store: Store) -> None:
    promoted(store, "a", "b")
    store.delete(f"{checkpoint('a').key}/checkpoint.pt")
    with pytest.raises(Failure, match="promote RUN") as caught:
        roll_back(store)
    assert caught.value.cause is Cause.CORRUPT
    assert champion_of(History.load(store)) == "b"


@pytest.mark.parametrize("blob", [None, b"a but longer"])
def test_a_champion_without_its_file_is_named(store: Store, blob: bytes | None) -> None:
    champion = promoted(store, "a").champion
    assert champion
    must_be_there(store, champion)
    key = f"{champion.checkpoint.key}/checkpoint.pt"
    store.delete(key) if blob is None else store.put(key, blob)
    with pytest.raises(Failure, match="00000007/checkpoint.pt") as caught:
        must_be_there(store, champion)
    assert caught.value.cause is Cause.CORRUPT


def test_a_damaged_decision_is_named_and_nobody_else_becomes_champion(store: Store) -> None:
    (_, second) = promoted(store, "a", "b").decisions
    key = f"champions/{second.name}.json"
    store.put(key, (store.get(key) or b"")[:-20])
    with pytest.raises(Failure, match=second.name):
        History.load(store)


def test_what_was_made_from_the_same_is_known_whatever_became_of_it(store: Store) -> None:
    history = promoted(store, "a")
    decision, after = decide(store, history, "refused", checkpoint("b"), "", inputs=INPUTS)
    assert after.decided(INPUTS) == decision
    assert after.decided(INPUTS.model_copy(update={"code": "other"})) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"archives": ("a", "b")}, "archives: 1 new"),
        ({"dataset": "other"}, "dataset"),
        ({"recipe": {"lr": 0.2}}, "recipe: lr was 0.1, is 0.2"),
        ({"recipe": {"lr": 0.1, "size": [1, 2]}}, "recipe: size was none, is 1,2"),
        ({"code": "other"}, "code: was c, is other"),
        ({"libraries": {"x": "2"}}, "library: x was 1, is 2"),
        ({}, ""),
    ],
)
def test_what_has_changed_is_said(change: dict[str, object], said: str) -> None:
    changes = INPUTS.model_copy(update=change).changes_since(INPUTS)
    assert said in "; ".join(changes)
    assert len(changes) == len(change)


_events = st.lists(
    st.tuples(
        st.sampled_from(["promoted", "refused", "rolled-back"]),
        st.booleans(),  # by hand
        st.integers(0, 3),  # how many decisions its writer had not seen yet
    ),
    max_size=12,
)


@given(_events)
def test_everybody_sees_the_same_champion_and_no_decision_is_lost(
    events: list[tuple[Kind, bool, int]],
) -> None:
    """Whoever lists, in whatever order, folds to the same; what counted is a true history."""
    written: list[Decision] = []
    for count, (kind, by_hand, unseen) in enumerate(events):
        seen = History(written[: len(written) - unseen])
        number = 1 + max((one.number for one in seen.decisions), default=0)
        written.append(
            Decision(
                name=f"{number:06d}-{count:02d}",
                number=number,
                kind=kind,
                time="2026-01-01T00:00:00Z",  # type: ignore[arg-type]
                by_hand=by_hand,
                over=seen.champion.name if seen.champion else None,
                checkpoint=checkpoint(f"r{count}"),
                said="",
            )
        )
    history = History(written)
    assert history.champion == History(reversed(written)).champion
    assert {one.name for one in history.decisions} == {one.name for one in written}
    champions: list[str] = []
    for one in history.counting:
        if not one.by_hand or one.kind != "promoted":
            assert one.over == (champions[-1] if champions else None)
        if one.kind == "promoted":
            champions.append(one.name)
        elif one.kind == "rolled-back":
            champions.pop()
    assert [one.name for one in history.line] == champions


@pytest.mark.parametrize(
    "harm",
    [
        {"number": -5},
        {"number": 10**4000},
        {"name": "000002-b-zzzzz"},
        {"checkpoint": {"run_id": "../../../etc"}},
        {"checkpoint": {"key": "../../../etc/passwd"}},
        {"checkpoint": {"key": "runs/other/checkpoints/00000007"}},
        {"checkpoint": {"dataset_key": "../archives"}},
    ],
)
def test_a_decision_that_nobody_can_have_written_is_named(
    store: Store, harm: dict[str, Any]
) -> None:
    promoted(store, "a")
    (entry,) = store.list("champions")
    data = json.loads(store.get(entry.key) or b"")
    data.pop("seal", None)
    data["checkpoint"] |= harm.pop("checkpoint", {})
    store.put(entry.key, json.dumps(data | harm).encode())
    with pytest.raises(Failure) as caught:
        roll_back(store)
    assert caught.value.cause is Cause.CORRUPT
    assert entry.key in str(caught.value)
