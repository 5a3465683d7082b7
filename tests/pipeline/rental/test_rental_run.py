"""`voc-train run linode` from the archive to the receipt, with the real trainer."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.receipt import Receipt, read_receipt
from infra.stores import Store
from pipeline.sample_archive import SAMPLE_CLASSES
from rentals import TINY, Account, voc_train
from servers.prefect import PrefectServer


def run(where: str, archive: Path, environment: dict[str, str], *more: str) -> dict[str, Any]:
    terms = ("--yes", "--no-reaper") if where == "linode" else ()
    done = voc_train(
        ("run", where, "--archive", str(archive), "--classes", ",".join(SAMPLE_CLASSES))
        + (*TINY, *terms, *more),
        environment,
    )
    outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return outcome | {"said": done.stderr}


def test_a_rented_machine_makes_the_checkpoint_that_this_computer_makes(
    account: Account, store: Store, archive: Path, prefect: PrefectServer
) -> None:
    from model.checkpoint import file_sha256

    prefect_url = {"PREFECT_API_URL": prefect.api}
    there = run("linode", archive, prefect_url)
    receipt = read_receipt(store, there["run_id"])
    here = run("local", archive, prefect_url)

    assert file_sha256(Path(there["checkpoint"])) == there["sha256"]
    assert there["weights_digest"] == here["weights_digest"]
    assert there["miou"] == here["miou"]
    assert receipt
    paid_as_billed(receipt, account)
    assert list(dict.fromkeys(phase.name for phase in receipt.phases)) == [
        "created", "booting", "set-up", "training", "verified", "gone",
    ]  # fmt: skip
    assert f"${receipt.dollars:.2f}" in there["said"]
    shown = httpx.post(f"{prefect.api}/artifacts/filter", json={}).json()
    assert "voc-train-receipt" in [artifact["key"] for artifact in shown]


def paid_as_billed(receipt: Receipt, account: Account) -> None:
    """Line by line: what the run noted is what the provider bills."""
    noted = {line.id: (line.hours, line.dollars) for line in receipt.lines if line.dollars}
    assert noted == {line.id: (line.hours, line.dollars) for line in account.bill()}
    assert receipt.dollars == pytest.approx(sum(line.dollars for line in account.bill()))
    assert not receipt.leaked
