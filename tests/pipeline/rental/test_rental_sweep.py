"""A sweep rents one machine for all its settings, and another only where that one is lost."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from begun import Begin
from infra.receipt import read_receipt
from infra.stores import Store
from pipeline.run_record import RunRecord, recorded_runs
from pipeline.sample_archive import SAMPLE_CLASSES
from pipeline.sweep import compare
from rentals import TINY, Account, inside, voc_train
from servers.prefect import PrefectServer


def command(archive: Path, *more: str) -> tuple[str, ...]:
    return (
        *("sweep", "--on", "linode", "--yes", "--no-reaper", "--archive", str(archive)),
        *("--classes", ",".join(SAMPLE_CLASSES), *TINY, *more),
    )


def sweep(archive: Path, prefect: PrefectServer, *more: str) -> Any:
    done = voc_train(command(archive, *more), {"PREFECT_API_URL": prefect.api})
    return json.loads(done.stdout.splitlines()[-1]) | {"said": done.stderr}


def test_one_machine_is_paid_for_all_settings(
    account: Account, store: Store, archive: Path, prefect: PrefectServer
) -> None:
    found = sweep(archive, prefect, "--set", "lr=1e-3,1e-2", "--budget", "5")
    (line,) = account.bill()
    receipt = read_receipt(store, found["run_id"])
    assert receipt
    assert found["dollars"] == receipt.dollars == line.dollars
    rows = found["rows"]
    assert sum(row["dollars"] for row in rows) == pytest.approx(line.dollars, abs=0.001)
    assert all(row["miou"] is not None for row in rows)
    for row in rows:
        record = store.read(f"runs/{row['run_id']}/run.json", RunRecord)
        assert record
        assert record.state == "done"
        assert not list(store.list(f"runs/{row['run_id']}/intents"))
    said = found["said"]
    assert said.index("setting 2 of 2") < said.index("tear-down …") < said.index("evaluate …")


def test_a_machine_at_work_is_followed_and_none_is_rented_for_what_it_trains(
    begin: Begin,
    account: Account,
    store: Store,
    archive: Path,
    prefect: PrefectServer,
    tmp_path: Path,
) -> None:
    environment = {"PREFECT_API_URL": prefect.api}
    started = command(archive, "--set", "epochs=1,30")
    begin("epoch 1/30", *started, environment=environment).kill()
    trainers = [one for one in inside() if "model.train" in one.cmdline()]
    assert trainers
    for trainer in trainers:  # it must not come to its end before somebody follows
        trainer.suspend()
    (found,) = [record for record in recorded_runs(store) if record.trials]
    environment |= {"VOC_TRAIN_HOME": str(tmp_path / "elsewhere"), "VOC_TRAIN_STORE": store.url}
    resumed = begin("train …", "resume", found.run_id, "--yes", environment=environment)
    for trainer in trainers:
        with suppress(psutil.NoSuchProcess):  # its machine was deleted: see the bill
            trainer.resume()
    _, said = resumed.communicate()
    assert resumed.returncode == 0, said
    assert all(row.miou is not None for row in compare(store, found).rows)
    (line,) = account.bill()
    assert line.label.endswith("-t1")
