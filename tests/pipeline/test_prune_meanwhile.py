"""What a prune leaves to those who are at work, begin or go on meanwhile, and when it is killed."""

import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import pytest

from infra.claims import Claim, Hold
from infra.failure import Failure
from infra.intents import Intent, Intents
from infra.protocol import Heartbeat, Result, now
from infra.provider import Kind, Thing
from infra.reaper_report import ReaperReport
from infra.stores import Store
from pipeline.holdings import survey
from pipeline.pruning import Terms, prune, what_may_go
from pruned import NONE, RECORDS, Eventful, is_whole, left_of, plan_of, pruned, three_old_runs
from stored import keys, make_older, put_decision, put_run


@pytest.fixture
def old(store: Store) -> Store:
    return three_old_runs(store)


def _runs(store: Store) -> None:
    put_run(store, "run-a", days=0.1, dataset="da", state="running")


def _beats(store: Store) -> None:
    put_run(store, "run-a", dataset="da", state="running")
    beat = Heartbeat(time=now(), state="running")
    store.write("runs/run-a/heartbeat.json", beat)


def _is_trained(store: Store) -> None:
    put_run(store, "run-a", dataset="da", state="running")
    then = now() - timedelta(days=30)
    result = Result(exit_code=0, cause=None, message="", started=then, ended=then)
    store.write("runs/run-a/result.json", result)


def _is_silent_since_days(store: Store) -> None:
    put_run(store, "run-a", dataset="da", state="running")
    make_older(store, 5)


def _is_claimed(store: Store) -> None:
    claim = Claim(owner="me", where="here", time=now(), rank=1)
    store.write("runs/run-a/claims/me.json", claim)


def _rents(store: Store) -> None:
    intents = Intents(store, "run-a")
    then = now() - timedelta(days=20)
    intent = Intent(kind=Kind.INSTANCE, label="voc-train-run-a-t1", time=then, until=then)
    intents.intend(intent)
    thing = Thing(kind=Kind.INSTANCE, id=7, label=intent.label, created=then)
    intents.created(intent, thing)


@pytest.mark.parametrize(
    ("happens", "why"),
    [
        (_runs, "running"),
        (_beats, "running"),
        (_is_trained, "trained, and not yet scored"),
        (_is_silent_since_days, "silent for less than a week"),
        (_is_claimed, "driven by somebody"),
        (_rents, "instance voc-train-run-a-t1 is not proven gone"),
    ],
)
@pytest.mark.parametrize("late", [False, True], ids=["before", "meanwhile"])
def test_what_somebody_works_on_stays_with_its_data(
    old: Store, happens: Callable[[Store], None], why: str, late: bool
) -> None:
    if not late:
        happens(old)
    held = survey(old)
    plan = what_may_go(held, NONE)
    if late:  # between the look and the deletion
        happens(old)
    else:
        assert why in plan.stays["run-a"]

    said: list[str] = []
    prune(old, plan, held, NONE, said.append)

    assert is_whole(old, "run-a")
    assert len(keys(old, "datasets/da")) == 4
    assert f"archives/{'a' * 64}.tar" in keys(old)
    assert not is_whole(old, "run-b")
    assert len(keys(old, "datasets/db")) == 0
    if late:
        assert why in " ".join(said)


def _of_one_that_has_ended() -> str:
    """The identity of a process of this computer."""
    says = "from infra.processes import identity; print(identity())"
    return subprocess.check_output([sys.executable, "-c", says], text=True).strip()


def test_the_claim_of_one_that_is_dead_keeps_nothing(old: Store) -> None:
    """As of a prune that was killed, or of a controller that another has replaced since."""
    dead = Claim(owner="dead", where="here", process=_of_one_that_has_ended(), time=now(), rank=1)
    old.write("runs/run-a/claims/dead.json", dead)
    old.write("runs/run-b/claims/old.json", Claim(owner="old", where="", time=now(), rank=1))
    heir = Claim(owner="heir", where="", time=now(), rank=2, withdrawn=True)
    old.write("runs/run-b/claims/heir.json", heir)
    assert not {"run-a", "run-b"} & plan_of(old).stays.keys()
    candidate = Claim(owner="new", where="", time=now())
    old.write("runs/run-b/claims/new.json", candidate)
    assert plan_of(old).stays["run-b"] == "driven by somebody"


def test_a_run_that_is_silent_for_long_goes_with_its_data(old: Store) -> None:
    put_run(old, "run-a", dataset="da", state="running")
    _is_claimed(old)
    make_older(old, 8)
    pruned(old)
    assert not is_whole(old, "run-a")
    assert len(keys(old, "datasets/da")) == 0


def test_what_a_reaper_saw_gone_after_its_lease_keeps_no_run(old: Store) -> None:
    _rents(old)
    assert "run-a" in plan_of(old).stays
    soon = now() - timedelta(days=19.5)  # when what was never answered for may still come
    old.write("reaper.json", ReaperReport(time=soon, deletes=True))
    assert "run-a" in plan_of(old).stays
    old.write("reaper.json", ReaperReport(time=now(), deletes=False))
    assert "run-a" in plan_of(old).stays
    old.write("reaper.json", ReaperReport(time=now(), deletes=True))
    assert "run-a" not in plan_of(old).stays


def test_while_a_run_prepares_no_data_goes(old: Store) -> None:
    put_run(old, "run-d", days=0.01, state="running")
    said = plan_of(old).left_alone["runs/run-d/"]
    assert "is at work, and has not noted yet what it needs" in said
    pruned(old)
    assert not is_whole(old, "run-a")
    assert len(keys(old, "datasets/da")) == 4
    assert len(keys(old, "archives")) == 9


def test_a_run_that_died_while_it_prepared_keeps_no_data(old: Store) -> None:
    put_run(old, "run-d", days=3, state="running")
    make_older(old, 3, but="run-a")
    assert plan_of(old).stays == {"run-d": "silent for less than a week"}
    pruned(old)
    assert len(keys(old, "datasets/da")) == 0


def test_a_run_that_begins_meanwhile_keeps_the_data(old: Store) -> None:
    held = survey(old)
    plan = what_may_go(held, NONE)
    put_run(old, "run-d", days=0, dataset="da", state="running")
    prune(old, plan, held, NONE)
    assert len(keys(old, "datasets/da")) == 4
    assert len(keys(old, "datasets/db")) == 0


def test_a_run_that_begins_on_the_way_keeps_what_is_left(old: Store) -> None:
    store = Eventful.open(old.url)
    assert isinstance(store, Eventful)
    store.at, store.happens = "datasets/da/", lambda: put_run(old, "run-d", days=0, state="running")
    held = survey(store)
    said: list[str] = []
    prune(store, what_may_go(held, NONE), held, NONE, said.append)
    assert "run run-d is at work by now" in said[0]
    assert len(keys(old, "archives")) == 9
    assert len([key for key in keys(old, "datasets") if key.endswith("manifest.json")]) == 2


def test_a_run_that_goes_on_on_the_way_keeps_what_is_left(old: Store) -> None:
    store = Eventful.open(old.url)
    assert isinstance(store, Eventful)
    store.at, store.happens = "datasets/db/manifest", lambda: _is_claimed(old)
    held = survey(store)
    said: list[str] = []
    prune(store, what_may_go(held, NONE), held, NONE, said.append)
    assert "run run-a is at work by now" in said[0]
    assert len(keys(old, "archives")) == 9


def test_a_run_that_went_on_and_ended_meanwhile_stays(old: Store) -> None:
    held = survey(old)
    plan = what_may_go(held, NONE)
    put_run(old, "run-a", dataset="da", archives="a", message="Trained again.")
    said: list[str] = []
    prune(old, plan, held, NONE, said.append)
    assert said == ["run run-a stays: somebody went on with it"]
    assert is_whole(old, "run-a")


def test_nobody_goes_on_with_a_run_while_it_is_deleted(old: Store) -> None:
    store = Eventful.open(old.url)
    assert isinstance(store, Eventful)
    claims: list[set[str]] = []
    store.at, store.happens = (
        "run-a/checkpoints",
        lambda: claims.append(keys(old, "runs/run-a/claims")),
    )
    held = survey(store)
    prune(store, what_may_go(held, NONE), held, NONE)
    assert len(claims[0]) == 1
    assert keys(old, "runs/run-a/claims") == set()


def test_a_run_that_somebody_takes_right_after_the_look_stays(
    old: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.pruning.in_use", lambda *_, **__: "")
    monkeypatch.setattr("pipeline.pruning.Hold", partial(Hold, every=0.1))
    held = survey(old)
    said: list[str] = []
    with Hold(old, "run-a", every=0.05):
        prune(old, what_may_go(held, NONE), held, NONE, said.append)
    assert is_whole(old, "run-a")
    assert not is_whole(old, "run-b")
    assert any("run run-a stays: Run run-a is driven by" in line for line in said)


def test_of_a_sweep_that_goes_on_meanwhile_every_setting_stays(old: Store) -> None:
    trial = {"run_id": "run-b", "settings": {"lr": "1"}}
    put_run(old, "run-a", trials=[trial])
    make_older(old, 8)
    held = survey(old)
    plan = what_may_go(held, NONE)
    assert "run-b" not in plan.stays
    _is_claimed(old)
    said: list[str] = []
    prune(old, plan, held, NONE, said.append)
    assert "run run-b stays: of sweep run-a: driven by somebody" in said
    assert is_whole(old, "run-b")
    assert plan_of(old).stays["run-b"] == "of sweep run-a: driven by somebody"


def test_a_champion_that_is_made_on_the_way_stays(old: Store) -> None:
    store = Eventful.open(old.url)
    assert isinstance(store, Eventful)
    store.at, store.happens = "run-c/checkpoints", lambda: put_decision(old, 1, "run-a", "da")
    held = survey(store)
    with pytest.raises(Failure, match="A champion was decided on meanwhile"):
        prune(store, what_may_go(held, NONE), held, NONE)
    assert is_whole(old, "run-a")
    assert len(keys(old, "datasets/da")) == 4


def _goes_on_and_ends(store: Store) -> None:
    put_run(store, "run-a", dataset="da", archives="a", message="Trained again.")


@pytest.mark.parametrize(
    ("happens", "why"),
    [
        (_goes_on_and_ends, "somebody went on with it"),
        (_rents, "instance voc-train-run-a-t1 is not proven gone"),
        (_runs, "running"),
    ],
)
def test_while_a_run_is_claimed_is_looked_at_again(
    old: Store, happens: Callable[[Store], None], why: str
) -> None:
    """The claim may wait for a minute for whoever drove the run."""
    store = Eventful.open(old.url)
    assert isinstance(store, Eventful)
    store.at, store.happens = "runs/run-a/claims/", lambda: happens(old)
    held = survey(store)
    said: list[str] = []
    prune(store, what_may_go(held, NONE), held, NONE, said.append)
    assert any(line.startswith("run run-a stays:") and why in line for line in said)
    assert is_whole(old, "run-a")
    assert "pruned.json" not in left_of(old, "run-a")
    assert not is_whole(old, "run-b")


def test_a_champion_that_is_made_while_its_run_is_claimed_stays(old: Store) -> None:
    store = Eventful.open(old.url)
    assert isinstance(store, Eventful)
    store.at = "runs/run-a/claims/"
    store.happens = lambda: put_decision(old, 1, "run-a", "da")
    held = survey(store)
    with pytest.raises(Failure, match="A champion was decided on meanwhile"):
        prune(store, what_may_go(held, NONE), held, NONE)
    assert is_whole(old, "run-a")
    assert "pruned.json" not in left_of(old, "run-a")
    assert keys(old, "runs/run-a/claims") == set()


@pytest.mark.parametrize(
    "at",
    [
        *("000009/manifest.json", "000009/checkpoint.pt", "da/manifest.json", "da/index"),
        *("da/shards", "urls/a.json", "a.index.jsonl", "a.tar", "splits/da.json"),
    ],
)
def test_one_that_is_killed_leaves_nothing_that_looks_whole_and_goes_on(
    old: Store, at: str
) -> None:
    store = Eventful.open(old.url)
    assert isinstance(store, Eventful)

    def die() -> None:
        raise KeyboardInterrupt

    store.at, store.happens = at, die
    held = survey(store)
    with pytest.raises(KeyboardInterrupt):
        prune(store, what_may_go(held, NONE), held, NONE)

    there = keys(old)
    for key in there:
        if key.endswith("/manifest.json"):
            assert (
                key.replace("manifest.json", "checkpoint.pt") in there
                or {
                    key.replace("manifest.json", name)
                    for name in ("index.jsonl", "shards/00000.tar")
                }
                <= there
            )
        if key.startswith("archives/urls/"):
            sha256 = key[-6] * 64
            assert {f"archives/{sha256}.tar", f"archives/{sha256}.index.jsonl"} <= there
    # What was begun does not count as one of the last that stay, nor as young.
    pruned(old, Terms(keep=3, older_than=timedelta(days=15)) if "000009" in at else NONE)
    begun = {key for key in keys(old) if "run-c" in key} if "000009" in at else keys(old)
    assert {key.rsplit("/", 1)[-1] for key in begun} == RECORDS


def test_a_pruned_run_that_somebody_goes_on_with_counts_again(old: Store) -> None:
    pruned(old)
    put_run(old, "run-a", days=30, dataset="da", archives="a")
    assert pruned(old, Terms(keep=1)) == set()
    assert is_whole(old, "run-a")
