"""The other ways to a checkpoint: a Volume that moves, and a machine rented to prepare the data."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from infra.failure import Cause
from infra.provider import Kind
from infra.receipt import Receipt, read_receipt
from infra.simulator.machine import MachineFault
from infra.stores import Store
from pipeline.rehearsal import watched
from pipeline.sample_archive import SAMPLE_CLASSES
from rentals import Account, voc_train
from servers.prefect import PrefectServer

_TINY = ("--recipe", "tiny", "--set", "epochs=1", "--set", "width=1", "--set", "depth=1")
_TINY += ("--set", "min_miou=none", "--workers", "0", "--wandb", "disabled", "--json")
_REGION = "us-ord"


def _run(
    archive: Path, prefect: PrefectServer, *more: str, code: int = 0
) -> tuple[dict[str, Any], str]:
    classes = ",".join(SAMPLE_CLASSES)
    done = voc_train(
        [
            *("run", "linode", "--archive", str(archive), "--classes", classes),
            *(*_TINY, "--yes", *more),
        ],
        {"PREFECT_API_URL": prefect.api},
        code=code,
    )
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def _kinds(receipt: Receipt) -> list[str]:
    return sorted(f"{line.kind} {line.plan}".strip() for line in receipt.lines)


def test_a_volume_carries_everything_from_machine_to_machine(
    account: Account, store: Store, archive: Path, prefect: PrefectServer
) -> None:
    route = ("--route", "volume", "--region", _REGION)
    made, said = _run(archive, prefect, *route, "--no-reaper")
    receipt = read_receipt(store, made["run_id"])
    assert receipt
    assert Path(made["checkpoint"]).exists()
    assert _kinds(receipt) == [
        "firewall", "instance g2-gpu-rtx4000a1-s", "instance g6-standard-2", "stackscript",
        "stackscript", "volume",
    ]  # fmt: skip
    assert {line.region for line in receipt.lines if line.region} == {_REGION}
    assert {line.id: line.dollars for line in receipt.lines if line.dollars} == {
        line.id: line.dollars for line in account.bill()
    }
    # The machine with the GPU costs most: it is gone before the checkpoint comes home.
    gone = {line.plan: line.gone for line in receipt.lines if line.kind is Kind.INSTANCE}
    trainer, preparer = gone["g2-gpu-rtx4000a1-s"], gone["g6-standard-2"]
    assert trainer
    assert preparer
    assert trainer < preparer
    # What the run wrote on the Volume is in the store here: log, metrics, result.
    names = {entry.key.split("/")[2] for entry in store.list(f"runs/{made['run_id']}")}
    assert {"log", "metrics.jsonl", "result.json", "report.html"} <= names
    assert said.count("detaching the Volume") == 2


def test_a_run_that_fails_before_its_training_keeps_no_volume(
    account: Account, store: Store, archive: Path, prefect: PrefectServer
) -> None:
    account.ills = (MachineFault.DRIVER,)
    with watched(store, account.clock):
        failed, _ = _run(archive, prefect, "--route", "volume", "--region", _REGION, code=1)
    assert failed["cause"] == Cause.SETUP_FAILED
    receipt = read_receipt(store, failed["run_id"])
    assert receipt
    assert all(line.gone for line in receipt.lines)


def test_a_run_that_fails_in_its_training_keeps_its_volume_for_a_day(
    account: Account, store: Store, archive: Path, prefect: PrefectServer, leaks: set[str]
) -> None:
    route = ("--route", "volume", "--region", _REGION, "--limit", "train_hours=0.0001")
    with watched(store, account.clock):
        failed, _ = _run(archive, prefect, *route, code=1)
    assert failed["cause"] == Cause.DEADLINE
    receipt = read_receipt(store, failed["run_id"])
    assert receipt
    (volume,) = (line for line in receipt.lines if line.kind is Kind.VOLUME)
    leaks.add(volume.label)
    assert not receipt.leaked
    assert volume.kept_until
    ends = [line.gone for line in receipt.lines if line.kind is not Kind.VOLUME]
    assert all(ends)
    assert volume.kept_until - max(end for end in ends if end) > timedelta(hours=20)

    shown = voc_train(("reap", "--store", store.url, "--json"), {})
    (found,) = json.loads(shown.stdout)["found"]
    assert (found["label"], found["state"]) == (volume.label, "live")
    assert found["dollars_per_hour"] == pytest.approx(volume.dollars_per_hour)


def test_a_machine_is_rented_to_prepare_and_gone_before_the_gpu(
    account: Account, store: Store, archive: Path, prefect: PrefectServer
) -> None:
    made, _ = _run(archive, prefect, "--prepare-on", "linode", "--no-reaper")
    receipt = read_receipt(store, made["run_id"])
    assert receipt
    machines = {line.plan: line for line in receipt.lines if line.kind is Kind.INSTANCE}
    preparer, trainer = machines["g6-standard-2"], machines["g2-gpu-rtx4000a1-s"]
    assert preparer.gone
    assert trainer.created
    assert preparer.gone < trainer.created
    assert Path(made["checkpoint"]).exists()
    # The same dataset as this computer makes: a second run has nothing to prepare.
    again, _ = _run(archive, prefect, "--no-reaper")
    assert "build-dataset" in again["reused"]
    assert again["weights_digest"] == made["weights_digest"]
