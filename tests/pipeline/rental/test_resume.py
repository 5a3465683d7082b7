"""`voc-train resume`: any computer goes on with a run whose controller is gone."""

import json
from pathlib import Path
from typing import Any

import pytest

from agents import until
from infra.linode import Linode
from infra.provider import Kind
from infra.simulator.faults import Effect
from infra.stores import Store
from pipeline.run_record import recorded_run
from pipeline.sample_archive import SAMPLE_CLASSES
from rentals import TINY, Account, Start, voc_train
from servers.prefect import PrefectServer

EPOCHS = 8
BY_VOLUME = ("linode", "--route", "volume", "--region", "us-ord")


@pytest.fixture
def elsewhere(tmp_path: Path, store: Store, prefect: PrefectServer) -> dict[str, str]:
    """The environment of a computer that has seen nothing of the run but its store."""
    return {
        "VOC_TRAIN_HOME": str(tmp_path / "another-computer"),
        "VOC_TRAIN_STORE": store.url,
        "PREFECT_API_URL": prefect.api,
    }


@pytest.fixture(scope="module")
def whole(
    archive: Path, prefect: PrefectServer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The outcome of a run that nobody interrupted."""
    home = tmp_path_factory.mktemp("whole")
    done = voc_train(
        (
            *("run", "local", "--archive", str(archive), "--classes", ",".join(SAMPLE_CLASSES)),
            *(*TINY, "--set", f"epochs={EPOCHS}"),
        ),
        {"VOC_TRAIN_HOME": str(home), "PREFECT_API_URL": prefect.api},
    )
    return outcome_of(done.stdout)


def outcome_of(said: str) -> dict[str, Any]:
    outcome: dict[str, Any] = json.loads(said.splitlines()[-1])
    return outcome


def resumed(store: Store, environment: dict[str, str], *more: str) -> dict[str, Any]:
    """Go on with the only run there is."""
    (run_id,) = store.folders("runs")
    done = voc_train(("resume", run_id, "--yes", "--json", *more), environment)
    return outcome_of(done.stdout)


def want_a_reaper(store: Store, run_id: str) -> None:
    """As if one had looked when the run began, and none does any more."""
    record = recorded_run(store, run_id)
    terms = record.parameters["rental"] | {"reaper": True}
    wanted = record.model_copy(update={"parameters": record.parameters | {"rental": terms}})
    store.write(f"runs/{run_id}/run.json", wanted)


def machines(account: Account) -> list[str]:
    """Of the bill, by what tells a run's machines apart."""
    return [line.label.rpartition("-")[2] for line in account.bill() if line.kind == "instance"]


def test_a_machine_at_work_is_followed_to_its_end(
    start: Start,
    account: Account,
    store: Store,
    elsewhere: dict[str, str],
    whole: dict[str, Any],
) -> None:
    """Though no reaper looks any more: one is wanted only to rent another."""
    start("epoch 1/", epochs=EPOCHS).kill()
    (run_id,) = store.folders("runs")
    want_a_reaper(store, run_id)
    assert resumed(store, elsewhere)["weights_digest"] == whole["weights_digest"]
    assert machines(account) == ["t1"]


def test_one_whose_job_never_began_is_deleted_and_another_is_rented(
    start: Start,
    account: Account,
    store: Store,
    elsewhere: dict[str, str],
    whole: dict[str, Any],
) -> None:
    """But only where a reaper looks, or none is wanted."""
    start("booting", epochs=EPOCHS).kill()
    (run_id,) = store.folders("runs")
    want_a_reaper(store, run_id)
    refused = voc_train(("resume", run_id, "--yes", "--json"), elsewhere, code=2)
    assert "No reaper that deletes has looked" in refused.stderr
    assert machines(account) == ["t1"]
    assert not [thing for thing in account.left() if thing.kind != "stackscript"]
    again = resumed(store, elsewhere, "--no-reaper")
    assert again["weights_digest"] == whole["weights_digest"]
    assert machines(account) == ["t1", "t2"]


def test_a_run_that_is_driven_is_left_alone(
    start: Start, account: Account, store: Store, elsewhere: dict[str, str]
) -> None:
    driver = start("epoch 1/")
    (run_id,) = store.folders("runs")
    refused = voc_train(("resume", run_id, "--yes", "--json"), elsewhere, code=1)
    assert outcome_of(refused.stdout)["cause"] == "CLAIMED"
    assert f"process {driver.pid}" in refused.stderr
    assert machines(account) == ["t1"]
    driver.terminate()
    assert driver.wait(100) == 130


def test_here_it_goes_on_from_the_newest_checkpoint(
    start: Start, store: Store, prefect: PrefectServer, whole: dict[str, Any]
) -> None:
    start("epoch 2/", "local", epochs=EPOCHS).kill()
    outcome = resumed(store, {"PREFECT_API_URL": prefect.api})
    assert outcome["weights_digest"] == whole["weights_digest"]
    assert outcome["reused"] == []


def test_a_run_that_is_done_says_how_to_have_its_checkpoint(
    whole: dict[str, Any], prefect: PrefectServer
) -> None:
    home = Path(whole["checkpoint"]).parents[2]
    again = voc_train(
        ("resume", whole["run_id"]),
        {"VOC_TRAIN_HOME": str(home), "PREFECT_API_URL": prefect.api},
        code=2,
    )
    assert f"voc-train fetch {whole['run_id']}" in again.stderr


def test_a_volume_is_gone_on_with(
    start: Start,
    account: Account,
    store: Store,
    elsewhere: dict[str, str],
    whole: dict[str, Any],
) -> None:
    start("epoch 1/", *BY_VOLUME, epochs=EPOCHS).kill()
    again = resumed(store, elsewhere)
    assert again["weights_digest"] == whole["weights_digest"]
    assert "prepare" not in again["seconds"]  # the dataset is on the Volume
    assert machines(account) == ["p1", "t1", "p2", "t2"]
    assert [line.kind for line in account.bill()].count("volume") == 1


def test_a_volume_goes_on_to_the_machine_after_the_one_that_is_lost(
    start: Start, account: Account, store: Store
) -> None:
    process = start("epoch 1/", *BY_VOLUME, epochs=40)
    (run_id,) = store.folders("runs")
    machine = f"voc-train-{run_id}-t1"
    until(lambda: any(account.disk(machine).glob("disks/*/*/job/out/checkpoints/*/manifest.json")))
    account.faults.add(Effect.VANISH, label=machine, times=1)
    Linode.from_environment(account.clock).list(Kind.INSTANCE)  # it is gone when anybody looks
    said = process.communicate()[1]
    assert process.returncode == 0, said
    assert "going on from step" in said
    assert machines(account) == ["p1", "t1", "t2"]
    assert recorded_run(store, run_id).state == "done"
