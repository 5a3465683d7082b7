"""The whole story: train, skip, retrain on a rented machine, refuse, promote, roll back."""

import json
from pathlib import Path
from typing import Any

import pytest

from infra.simulator.things import Instance
from infra.stores import Store
from pipeline.champion import History
from pipeline.parameters import Parameters, RentalTerms
from pipeline.progress import listening
from pipeline.run_record import Unchanged, recorded_run
from pipeline.sample_archive import SAMPLE_CLASSES, write_sample_archive
from rentals import Account, Listener, voc_train
from servers.prefect import PrefectServer
from stored import put_decision

NET = ("--recipe", "tiny", "--set", "width=4", "--set", "batch_size=4", "--set", "min_miou=none")
NET += ("--classes", ",".join(SAMPLE_CLASSES), "--workers", "0", "--wandb", "disabled")
RENTED = ("--yes", "--no-reaper")


class Retraining:
    """What a person or a schedule does, again and again."""

    def __init__(self, prefect: PrefectServer, folder: Path, store: Store) -> None:
        self.environment = {"PREFECT_API_URL": prefect.api}
        self.archive = folder / "shapes.tar"
        self.store = store

    def run(self, where: str, *more: str, epochs: int) -> dict[str, Any]:
        asked = ("--archive", str(self.archive), "--promote", "--json", "--set", f"epochs={epochs}")
        return self.command("run", where, *asked, *NET, *more)

    def command(self, *words: str) -> dict[str, Any]:
        done = voc_train(words, self.environment)
        outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return outcome

    @property
    def champion(self) -> str:
        champion = History.load(self.store).champion
        assert champion
        return champion.checkpoint.run_id


def checkpoints_of(store: Store, run_id: str) -> list[str]:
    return [entry.key for entry in store.list(f"runs/{run_id}/checkpoints")]


@pytest.mark.timeout(600)
def test_it_retrains_itself_and_promotes_only_what_is_better(
    account: Account, store: Store, prefect: PrefectServer, tmp_path: Path
) -> None:
    story = Retraining(prefect, tmp_path, store)

    def rented() -> int:
        return len([line for line in account.bill() if line.kind == "instance"])

    write_sample_archive(story.archive, train=40, val=12, unlabelled=1)
    first = story.run("local", epochs=6)
    assert first["decision"] == "promoted"
    assert story.champion == first["run_id"]

    # Though it could not rent: the month's budget is spent, and nothing would look after it.
    story.environment["VOC_TRAIN_MONTHLY_BUDGET"] = "0"
    same = story.run("linode", "--yes", epochs=6)
    del story.environment["VOC_TRAIN_MONTHLY_BUDGET"]
    assert same["trained_by"] == first["run_id"]
    assert "dataset" in same["compared"]
    assert rented() == 0
    assert store.get(f"runs/{same['run_id']}/result.json") is None

    write_sample_archive(story.archive, train=44, val=14, unlabelled=1, seed=1)
    worse = story.run("linode", *RENTED, epochs=1)
    assert worse["decision"] == "refused"
    assert story.champion == first["run_id"]
    assert rented() == 1
    assert not account.account.all(Instance)

    better = story.run("local", epochs=16)
    assert better["decision"] == "promoted"
    assert story.champion == better["run_id"]

    assert story.command("rollback", "--json")["checkpoint"]["run_id"] == first["run_id"]
    assert story.champion == first["run_id"]

    links = story.command("lineage", better["checkpoint"], "--json")["links"]
    assert [one["kind"] for one in links] == ["archive", "dataset", "run", "checkpoint", "champion"]
    assert {proof["state"] for one in links for proof in one["proofs"]} == {"verified"}

    again = story.run("linode", *RENTED, epochs=16)
    assert (again["trained_by"], again["decision"]) == (better["run_id"], "rolled-back")
    assert rented() == 1

    story.command("prune", "--delete", "--keep", "0", "--most", "100", "--json")
    assert not checkpoints_of(store, worse["run_id"])
    assert recorded_run(store, worse["run_id"]).outcome
    assert checkpoints_of(store, better["run_id"])  # it was champion, and may be again
    assert story.champion == first["run_id"]
    links = story.command("lineage", first["checkpoint"], "--json")["links"]
    proofs = {(link["kind"], proof["state"]) for link in links for proof in link["proofs"]}
    # Its archive is no longer where it was: that was no prune, but the change that began all this.
    assert {kind for kind, state in proofs if state != "verified"} <= {"archive"}


@pytest.mark.timeout(300)
def test_what_was_decided_while_a_run_waited_is_not_trained_again(
    account: Account,
    archive: Path,
    store: Store,
    prefect: PrefectServer,
    flows: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a nightly run waits for one that a person began in the evening."""
    from pipeline import rental_queue
    from pipeline.flow import voc_train

    limits = "v2/concurrency_limits/"
    prefect.post(limits, name=rental_queue.PLACES, limit=1, active_slots=1)
    flow = prefect.post("flows/", name="voc-train")["id"]
    rents = {"type": "RUNNING", "name": "Renting"}
    holder = prefect.post("flow_runs/", flow_id=flow, state=rents)["id"]

    def other_is_decided() -> None:
        (run_id,) = store.folders("runs")
        inputs = recorded_run(store, run_id).inputs
        assert inputs
        put_decision(store, 1, "260101-other", inputs.dataset, inputs=inputs.model_dump())
        prefect.delete(f"flow_runs/{holder}")
        prefect.patch(f"{limits}{rental_queue.PLACES}", active_slots=0)

    listener = Listener()
    listener.when("waiting for its end", other_is_decided)
    monkeypatch.setattr(rental_queue, "_EVERY", 0.2)
    monkeypatch.setattr(rental_queue, "_is_rehearsal", lambda: False)  # its account is the real one
    parameters = Parameters(
        archives=(str(archive),),
        classes=SAMPLE_CLASSES,
        recipe="tiny",
        store=store.url,
        machine="linode",
        rental=RentalTerms(reaper=False),
        wandb="disabled",
        promote=True,
    )
    token = listening.set((listener,))
    unchanged = voc_train(parameters)
    listening.reset(token)
    prefect.delete(f"{limits}{rental_queue.PLACES}")
    assert not listener.failed
    assert isinstance(unchanged, Unchanged)
    assert unchanged.trained_by == "260101-other"
    assert not account.bill()
