"""`voc-train sweep` on this computer, from the archive to the table."""

import json
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from begun import Begin
from commands import VocTrain, home_store, in_this_process
from infra.stores import Store
from pipeline.run_record import RunRecord, recorded_runs
from pipeline.sample_archive import SAMPLE_CLASSES
from rentals import TINY, voc_train
from servers.prefect import PrefectServer

# With this decay a rate of 10 makes every weight nine times as large at each step.
GRID = ("--set", "optimiser=sgd", "--set", "weight_decay=1", "--set", "clip=none")
GRID += ("--set", "schedule=constant", "--set", "warm_up=0", "--set", "epochs=16")
GRID += ("--set", "batch_size=4", "--set")
SETTINGS = ["lr=0.01", "lr=0.02", "lr=10"]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[VocTrain]:
    """The command line in this process, for what is said at once."""
    monkeypatch.setenv("COLUMNS", "200")
    yield from in_this_process(monkeypatch, capfd)


def command(archive: Path, *more: str) -> tuple[str, ...]:
    classes = ",".join(SAMPLE_CLASSES)
    return ("sweep", "--archive", str(archive), "--classes", classes, *TINY, *more)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("voc-train")


@pytest.fixture(scope="module")
def environment(prefect: PrefectServer, home: Path) -> dict[str, str]:
    return {"PREFECT_API_URL": prefect.api, "VOC_TRAIN_HOME": str(home), "COLUMNS": "200"}


@pytest.fixture(scope="module")
def whole(archive: Path, environment: dict[str, str]) -> Any:
    """A sweep that nobody disturbed, as `--json` prints it, and what it said."""
    done = voc_train(command(archive, *GRID, "lr=0.01,0.02,10"), environment)
    return json.loads(done.stdout.splitlines()[-1]) | {"said": done.stderr}


def records(home: Path, rows: Sequence[Any]) -> dict[str, RunRecord]:
    """The record of each trial, by its rate."""
    store = Store.open(str(home / "store"))
    found = {}
    for row in rows:
        record = store.read(f"runs/{row['run_id']}/run.json", RunRecord)
        assert record
        found[row["settings"]["lr"]] = record
    return found


def digests(home: Path, rows: Sequence[Any]) -> dict[str, str | None]:
    found = records(home, rows)
    return {lr: one.outcome.weights_digest if one.outcome else None for lr, one in found.items()}


def test_every_setting_is_a_run_and_a_row_best_first(whole: Any, home: Path) -> None:
    rows = whole["rows"]
    assert sorted(row["settings"]["lr"] for row in rows) == ["0.01", "0.02", "10"]
    assert rows[0]["miou"] >= rows[1]["miou"]
    assert whole["best"] == rows[0]["run_id"]
    assert all(row["seconds"] > 0 and 0 < row["dice"] < 1 for row in rows[:2])
    found = records(home, rows)
    assert found["0.02"].parameters["overrides"]["lr"] == "0.02"
    assert found["0.02"].outcome
    assert Path(found["0.02"].outcome.checkpoint).exists()
    assert Path(found["0.02"].outcome.report).exists()
    assert len(list((home / "store" / "datasets").iterdir())) == 1
    assert whole["said"].count("build-dataset …") == 1
    for number, setting in enumerate(SETTINGS, 1):
        assert f"setting {number} of 3: {setting}" in whole["said"]


def test_a_setting_that_fails_is_a_row_with_its_cause(whole: Any, home: Path) -> None:
    failed = whole["rows"][-1]
    assert failed["settings"] == {"lr": "10"}
    assert (failed["cause"], failed["miou"]) == ("USER_ERROR", None)
    assert "lower the learning rate" in failed["message"]
    assert records(home, whole["rows"])["10"].state == "failed"


def test_plot_and_report_lie_here_and_in_the_store(whole: Any, home: Path) -> None:
    folder = home / "store" / "runs" / whole["run_id"]
    assert Path(whole["plot"]).read_bytes() == (folder / "sweep.png").read_bytes()
    report = Path(whole["report"]).read_text()
    assert report == (folder / "report.html").read_text()
    assert all(row["run_id"] in report for row in whole["rows"])


def test_status_knows_the_sweep_and_its_runs(
    whole: Any, home: Path, typed: VocTrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOC_TRAIN_HOME", str(home))
    states = {run["run_id"]: run["state"] for run in json.loads(typed("status", "--json").out)}
    assert states[whole["run_id"]] == "done"
    assert [states[row["run_id"]] for row in whole["rows"]] == ["done", "done", "failed"]
    shown = typed("status", whole["run_id"]).out
    assert all(row["run_id"] in shown for row in whole["rows"])
    assert "best" in shown
    assert whole["report"] in shown
    over = typed("resume", whole["run_id"])
    assert over.code == 2
    assert f"voc-train status {whole['run_id']}" in over.err


def test_an_interrupted_sweep_goes_on_to_the_same_weights(
    whole: Any,
    archive: Path,
    home: Path,
    begin: Begin,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    elsewhere = environment | {"VOC_TRAIN_HOME": str(tmp_path)}
    interrupted = begin(
        ("setting 2 of 2", "epoch 1/"), *command(archive, *GRID, "lr=0.01,0.02"),
        environment=elsewhere,
    )  # fmt: skip
    os.killpg(interrupted.pid, signal.SIGINT)
    family = interrupted.children(recursive=True)
    assert interrupted.wait(100) == 130
    assert not psutil.wait_procs(family, timeout=60)[1]

    store = Store.open(str(tmp_path / "store"))
    (first,) = [  # the one that came to its end
        path.parent.name
        for path in tmp_path.glob("store/runs/*/result.json")
        if json.loads(path.read_bytes())["cause"] is None
    ]
    result = store.get(f"runs/{first}/result.json")
    (sweep,) = [run.run_id for run in recorded_runs(store) if run.trials]
    done = voc_train(("resume", sweep, "--json"), elsewhere)
    again = json.loads(done.stdout.splitlines()[-1])
    assert again["run_id"] == sweep
    assert digests(tmp_path, again["rows"]) == digests(home, whole["rows"][:2])
    assert store.get(f"runs/{first}/result.json") == result
    assert done.stderr.count("train …") == 1


def test_what_no_longer_fits_is_not_begun(
    archive: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    endless = ("--set", "epochs=99999,100000", "--limit", "train_hours=0.0005")
    words = [word for word in command(archive, *endless) if word != "--json"]
    done = voc_train(words, environment | {"VOC_TRAIN_HOME": str(tmp_path)}, code=1)
    assert "setting 1 of 2" in done.stderr
    assert "setting 2 of 2" not in done.stderr
    assert "Missing of 2 settings: epochs=99999 (DEADLINE), epochs=100000 (not be" in done.stderr
    assert "DEADLINE" in done.stdout
    assert "not begun" in done.stdout


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--set", "lr=1e-3"), "several values"),
        (("--set", "lr=1e-3,1e-4", "--on", "moon"), "--on moon is no place"),
        (("--set", "lr=1e-3,1e-4", "--on", "local", "--budget", "5"), "Nothing is rented"),
        (("--set", "lr=1e-3,1e-4", "--plan", "g2-gpu-rtx4000a1-s"), "Nothing is rented"),
    ],
)
def test_what_makes_no_sweep_is_refused_at_once(
    archive: Path, typed: VocTrain, more: tuple[str, ...], said: str
) -> None:
    refused = typed(*command(archive, *more))
    assert refused.code == 2
    assert said in refused.err
    assert not home_store().exists()
