"""What a prune takes from a store, and what it must leave."""

from datetime import timedelta

import pytest

from infra.failure import Cause, Failure
from infra.stores import Store
from pipeline.holdings import survey
from pipeline.pruning import Terms, must_not_be_too_much, what_may_go
from pruned import NONE, RECORDS, is_whole, left_of, plan_of, pruned, three_old_runs
from stored import keys, make_older, put_archive, put_dataset, put_decision, put_run


@pytest.fixture
def old(store: Store) -> Store:
    return three_old_runs(store)


def test_old_runs_go_with_their_data_and_leave_their_records(old: Store) -> None:
    gone = pruned(old, Terms(keep=1))

    assert ("run", "run-a") in gone
    assert left_of(old, "run-a") == left_of(old, "run-b") == RECORDS
    assert is_whole(old, "run-c")
    assert keys(old, "datasets") == {
        f"datasets/dc/{name}"
        for name in ("manifest.json", "index.jsonl", "shards/00000.tar", "shards/00001.tar")
    }
    assert keys(old, "splits") == {"splits/dc.json"}
    assert keys(old, "archives") == {
        f"archives/{'c' * 64}.tar",
        f"archives/{'c' * 64}.index.jsonl",
        "archives/urls/c.json",
    }
    assert pruned(old, Terms(keep=1)) == set()


def test_a_look_deletes_nothing(old: Store) -> None:
    before = keys(old)
    assert len(plan_of(old).items) == 12
    assert keys(old) == before


def test_the_champion_stays_with_its_data_and_those_before_it_with_what_the_gate_asks(
    old: Store,
) -> None:
    put_decision(old, 1, "run-a", "da")
    put_decision(old, 2, "run-b", "db")
    put_decision(old, 3, "run-c", "dc", kind="refused")
    make_older(old, 8)

    assert plan_of(old).stays == {"run-b": "the champion", "run-a": "champion before"}
    pruned(old)

    assert is_whole(old, "run-a")
    assert "report.html" in left_of(old, "run-a")
    assert is_whole(old, "run-b")
    assert not is_whole(old, "run-c")
    assert keys(old, "datasets/da") == {"datasets/da/manifest.json", "datasets/da/index.jsonl"}
    assert len(keys(old, "datasets/db")) == 4
    assert f"archives/{'b' * 64}.tar" in keys(old)
    assert f"archives/{'a' * 64}.tar" not in keys(old)
    assert pruned(old) == set()


def test_a_champions_data_stays_though_its_record_is_lost(old: Store) -> None:
    put_decision(old, 1, "run-a", "da")
    old.delete("runs/run-a/run.json")
    make_older(old, 8)
    pruned(old)
    assert is_whole(old, "run-a")
    assert len(keys(old, "datasets/da")) == 4
    assert f"archives/{'a' * 64}.tar" in keys(old)


def test_after_a_roll_back_the_earlier_champion_keeps_its_data(old: Store) -> None:
    put_decision(old, 1, "run-a", "da")
    put_decision(old, 2, "run-b", "db")
    put_decision(old, 3, "run-b", "db", kind="rolled-back")
    make_older(old, 8)
    pruned(old)
    assert len(keys(old, "datasets/da")) == 4
    assert len(keys(old, "datasets/db")) == 2


def test_a_damaged_decision_ends_it_all(old: Store) -> None:
    old.put("champions/000001-run-a-aaaaa.json", b"{")
    with pytest.raises(Failure, match="champions/000001-run-a") as caught:
        plan_of(old)
    assert caught.value.cause is Cause.CORRUPT


def test_what_left_only_records_pushes_no_other_out(old: Store) -> None:
    for number in range(3):
        put_run(old, f"nothing-{number}", days=1, dataset="db")
        for key in keys(old, f"runs/nothing-{number}") - {f"runs/nothing-{number}/run.json"}:
            old.delete(key)
    pruned(old, Terms(keep=1))
    assert is_whole(old, "run-c")
    assert not is_whole(old, "run-b")
    assert len(keys(old, "datasets/db")) == 4  # they are among the last all the same


def test_young_runs_stay_if_wished(old: Store) -> None:
    plan = plan_of(old, Terms(keep=0, older_than=timedelta(days=25)))
    assert [item.name for item in plan.items if item.kind == "run"] == ["run-a"]
    assert [item.name for item in plan.items if item.kind == "dataset"] == ["da"]


def test_young_data_stays_since_an_evaluation_may_be_at_it(store: Store) -> None:
    put_archive(store, "a")
    put_dataset(store, "da", "a")
    assert plan_of(store).items == ()
    make_older(store, 2)
    assert {item.kind for item in plan_of(store).items} == {"dataset", "split", "archive"}


def test_a_dataset_that_was_never_finished_goes(old: Store) -> None:
    old.delete("datasets/da/manifest.json")
    (item,) = [item for item in plan_of(old).items if item.name == "da" and item.kind == "dataset"]
    assert item.why == "it was never finished"


def test_what_was_prepared_elsewhere_goes_with_its_run(old: Store) -> None:
    old.put("runs/run-a-prepare/spec.json", b"{}")
    pruned(old)
    assert keys(old, "runs/run-a-prepare") == set()


def test_what_is_damaged_or_unknown_is_left_and_said(old: Store) -> None:
    old.put("runs/run-a/run.json", b"{")
    old.put("datasets/db/manifest.json", b"{")
    old.put("splits/db.json", b"{")
    old.put("archives/urls/b.json", b"{")
    strange = {"own/notes.txt", "archives/notes.txt", "runs/what", "runs/none/log/0.txt"}
    for key in strange:
        old.put(key, b"?")
    make_older(old, 8)

    left = plan_of(old).left_alone
    pruned(old)

    assert is_whole(old, "run-a")
    assert not is_whole(old, "run-b")
    assert strange | {"datasets/db/manifest.json", "splits/db.json"} <= keys(old)
    assert "no dataset or archive goes until you delete it" in left["runs/run-a/run.json"]
    assert left["own/"] == left["runs/what"] == left["archives/notes.txt"] == "is not known here"
    assert left["runs/none/"] == "has no record"
    assert left["splits/db.json"] == left["datasets/db/manifest.json"] == "is damaged"

    old.delete("runs/run-a/run.json")
    pruned(old)
    assert len(keys(old, "datasets/da")) == 0
    assert len(keys(old, "datasets/db")) == 4


def test_too_much_is_refused_with_figures(old: Store) -> None:
    held = survey(old)
    with pytest.raises(
        Failure, match=r"^3 of 3 runs would go, .* more than 90 %.*--most"
    ) as caught:
        must_not_be_too_much(what_may_go(held, NONE), held, 90)
    assert caught.value.cause is Cause.BAD_INPUT
    must_not_be_too_much(what_may_go(held, Terms(keep=1)), held, 90)
    must_not_be_too_much(what_may_go(held, NONE), held, 100)

    old.put("datasets/big/shards/00000.tar", bytes(100_000))
    make_older(old, 8)
    held = survey(old)
    with pytest.raises(Failure, match=r"GB would go"):
        must_not_be_too_much(what_may_go(held, Terms(keep=3)), held, 90)


def test_half_written_files_of_a_folder_go(old: Store) -> None:
    root = old.local_path("")
    assert root
    for name in ("archives/x.tar#1", "datasets/da/shards/.part-1", "runs/run-a/checkpoints/b#27"):
        (root / name).write_bytes(b"half")
    make_older(old, 2)
    (root / "archives/y.tar#1").write_bytes(b"on its way")
    (root / "own#1").write_bytes(b"somebody's")
    make_older(old, 2, but="y.tar")

    gone = {name for kind, name in pruned(old, Terms(keep=3)) if kind == "leftover"}

    assert len(gone) == 3
    assert {path.name for path in root.rglob("*[#-]*[0-9]") if path.is_file()} == {
        "y.tar#1",
        "own#1",
    }


def test_a_sweep_is_one_run_and_its_settings_stay_with_it(old: Store) -> None:
    names = ("sweep-1", "sweep-2")
    for name in names:
        put_run(old, name, days=5)
    put_run(
        old, "sweep", days=5, trials=[{"run_id": name, "settings": {"lr": "1"}} for name in names]
    )
    make_older(old, 8)
    assert {name for _, name in pruned(old, Terms(keep=2))} & {"run-a", "run-b", "run-c"} == {
        "run-a",
        "run-b",
    }
    assert all(is_whole(old, name) for name in names)
    assert plan_of(old, Terms(keep=2)).stays["sweep-1"] == "of sweep sweep, which stays"
    put_run(old, "later", days=1)
    assert {("run", name) for name in (*names, "sweep")} <= pruned(old, Terms(keep=1))
