"""`voc-train run linode` from the archive to the receipt, with the real trainer."""

import json
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from agents import until
from infra.clock import Clock
from infra.linode import Linode
from infra.reaper import reap
from infra.receipt import Receipt, read_receipt
from infra.stores import Store
from pipeline.rehearsal import watched
from pipeline.sample_archive import SAMPLE_CLASSES
from rentals import TINY, Account, Renter, voc_train
from servers.prefect import PrefectServer


def run(where: str, archive: Path, environment: dict[str, str], *more: str) -> dict[str, Any]:
    terms = ("--yes", "--no-reaper", *more) if where == "linode" else ()
    classes = ",".join(SAMPLE_CLASSES)
    done = voc_train(
        ("run", where, "--archive", str(archive), "--classes", classes, *TINY, *terms),
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


def test_every_gpu_that_is_paid_for_has_a_part_of_each_batch(
    account: Account, archive: Path, prefect: PrefectServer
) -> None:
    """The machine has no GPU in truth, so that its processes share the CPU."""
    from model import checkpoint

    plan = ("--plan", "g2-gpu-rtx4000a2-s")
    done = run("linode", archive, {"PREFECT_API_URL": prefect.api}, *plan)
    description, _ = checkpoint.load(Path(done["checkpoint"]))
    assert description.provenance.ranks == 2
    assert done["miou"] == description.miou


def paid_as_billed(receipt: Receipt, account: Account) -> None:
    """Line by line: what the run noted is what the provider bills."""
    noted = {line.id: (line.hours, line.dollars) for line in receipt.lines if line.dollars}
    assert noted == {line.id: (line.hours, line.dollars) for line in account.bill()}
    assert receipt.dollars == pytest.approx(sum(line.dollars for line in account.bill()))
    assert not receipt.leaked


def test_a_machine_that_is_kept_lets_its_renter_in_until_the_reaper_comes(
    account: Account, store: Store, renter: Renter
) -> None:
    renter = Renter(store, keep=True, reaper=True)
    renter.run.folder.mkdir(parents=True)
    with watched(store, account.clock):
        renter.rent()
    assert {thing.kind for thing in account.left()} >= {"instance", "firewall"}
    assert renter.phases[-1] == "kept"
    (said,) = [line for line in renter.listener.lines if line.startswith("kept until")]
    login = shlex.split(said.partition("deletes it: ")[2])
    done = subprocess.run(
        [*login, "-o", "BatchMode=yes", "id -u"], capture_output=True, text=True, check=False
    )
    assert done.stdout == "0\n", done.stderr
    assert (renter.run.folder / "ssh_key").stat().st_mode & 0o777 == 0o600

    late = replace(account.clock, speed=account.clock.speed * 400)
    until(lambda: not _reaped(account, store, late))
    assert all(line.gone for line in account.bill())
    (renter.run.folder / "ssh_key").unlink()  # the renter's own


def _reaped(account: Account, store: Store, late: Clock) -> list[str]:
    """Have the reaper look once; what is left after it."""
    reap(Linode.from_environment(late), store, late, delete=True, say=lambda line: None)
    return [thing.label for thing in account.left()]
