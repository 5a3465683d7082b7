"""The worker's monthly budget, and the bills, as the commands show and hold them."""

import json
from pathlib import Path

import pytest

from commands import RUN, VocTrain, home_store
from infra.failure import Failure
from infra.simulator import Simulator
from infra.stores import Store
from pipeline.parameters import RentalTerms
from pipeline.plan import make_plan
from spending import PRICE, record, rented


@pytest.fixture
def speed() -> float:
    """That of real time: what is there costs an hour as long as a test takes."""
    return 1


@pytest.fixture
def taken(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> float:
    """Dollars that a run which goes on may cost, of 8 a month."""
    monkeypatch.setenv("VOC_TRAIN_MONTHLY_BUDGET", "8")
    store = Store.open(str(home_store()))
    record(store, RUN)
    rented(store, RUN, simulator.clock.now(), lease=9)
    return 9 * PRICE


def test_a_plan_shows_what_is_left(voc_train: VocTrain, taken: float) -> None:
    asked = ("plan", "--budget", "2", "--region", "us-ord")
    said = voc_train(*asked)
    assert said.code == 0, said
    assert f"this month ${8 - taken:.2f} of the worker's $8.00 is left" in said.words
    plan = json.loads(voc_train(*asked, "--json").out)
    assert plan["monthly_budget"]["left"] == pytest.approx(8 - taken)
    assert plan["monthly_budget"]["dollars"] == 8


def test_without_a_monthly_budget_none_is_shown(voc_train: VocTrain, simulator: Simulator) -> None:
    assert "this month" not in voc_train("plan").words
    assert json.loads(voc_train("plan", "--json").out)["monthly_budget"] is None


def test_nothing_is_rented_beyond_it(
    voc_train: VocTrain, simulator: Simulator, taken: float, tmp_path: Path
) -> None:
    archive = tmp_path / "photos.tar"
    archive.write_bytes(b"")
    run = ("run", "linode", "--archive", archive, "--no-reaper", "--yes")
    for command in (("plan",), run):
        refused = voc_train(*command, "--region", "us-ord")
        assert refused.code == 1
        assert "This could cost $4.68" in refused.err
        assert f"${8 - taken:.2f} is left" in refused.err
        assert "Rent it?" not in refused.err
    assert voc_train("plan", "--region", "us-ord", "--budget", 3).code == 0
    assert simulator.bill() == simulator.left() == []


def test_nor_is_a_smoke_test(
    voc_train: VocTrain, simulator: Simulator, taken: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOC_TRAIN_MONTHLY_BUDGET", "4.69")
    refused = voc_train("smoke", "--yes", "--no-reaper", "--json")
    assert refused.code == 1
    assert json.loads(refused.out.splitlines()[-1])["cause"] == "BUDGET"
    assert simulator.bill() == simulator.left() == []


@pytest.mark.parametrize("said", ["4.69", "a lot"])
def test_who_goes_on_is_refused_only_another_machine(
    taken: float, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    monkeypatch.setenv("VOC_TRAIN_MONTHLY_BUDGET", said)
    store = Store.open(str(home_store()))
    terms = RentalTerms(reaper=False)
    assert make_plan(terms, 24, store, goes_on=True).offers
    with pytest.raises(Failure, match="VOC_TRAIN_MONTHLY_BUDGET"):
        make_plan(terms, 24, store)


def test_a_budget_that_is_none_is_one_sentence(
    voc_train: VocTrain,
    simulator: Simulator,
    requests: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VOC_TRAIN_MONTHLY_BUDGET", "a lot")
    for command in ("plan", "smoke", "bills"):
        refused = voc_train(command)
        assert (refused.code, refused.out) == (2, "")
        assert "VOC_TRAIN_MONTHLY_BUDGET is 'a lot'" in refused.err
    assert requests == []  # it was seen before anybody was asked


def test_a_doctor_looks_at_it(
    voc_train: VocTrain, taken: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen() -> tuple[bool | None, str]:
        findings = json.loads(voc_train("doctor", "--json").out)["findings"]
        (found,) = (one for one in findings if one["name"] == "monthly budget")
        return found["ok"], found["said"]

    ok, said = seen()
    assert ok
    assert said.startswith(f"${8 - taken:.2f} of $8.00 is left in ")
    monkeypatch.setenv("VOC_TRAIN_MONTHLY_BUDGET", "a lot")
    ok, said = seen()
    assert ok is False
    assert "'a lot'; give dollars a month" in said
    monkeypatch.delenv("VOC_TRAIN_MONTHLY_BUDGET")
    assert seen()[0] is None


def test_bills(voc_train: VocTrain, simulator: Simulator, taken: float) -> None:
    said = voc_train("bills", "--by", "run")
    assert f"{RUN} 0.52* not yet" in said.words
    assert "Monthly budget: $3.32 of $8.00 is left" in said.words
    (bill,) = json.loads(voc_train("bills", "--json").out)["bills"]
    assert (bill["name"], bill["estimated"]) == (f"{simulator.clock.now():%Y-%m}", PRICE)
    assert json.loads(voc_train("bills", "--json", "--month", "2020-02").out)["bills"] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("bills", "--month", "2026"),
        ("bills", "--month", "2026-13"),
        ("bills", "--by", "year"),
        ("runs", "--since", "yesterday"),
        ("runs", "--last", "0"),
        ("runs", "--state", "well"),
        ("runs", "--cause", "none"),
    ],
)
def test_what_cannot_be_asked_for(
    voc_train: VocTrain, simulator: Simulator, arguments: tuple[str, ...]
) -> None:
    refused = voc_train(*arguments, "--json")
    assert refused.code == 2
    assert refused.err.startswith("voc-train: ")
    said = json.loads(refused.out)
    assert said["cause"] == "BAD_INPUT"
    assert said["message"] in refused.err
    for jargon in ("%Y", "format", "datetime"):
        assert jargon not in refused.err


def test_runs_and_status_show_the_same_table(voc_train: VocTrain, taken: float) -> None:
    assert f"{RUN} tiny 0.52* running" in voc_train("runs").words
    assert voc_train("runs", "--json").out == voc_train("status", "--json").out
    assert json.loads(voc_train("runs", "--json", "--cause", "budget").out) == []
    assert RUN in voc_train("runs", "--recipe", "tiny", "--state", "running", "--last", 1).out
    assert RUN in voc_train("runs", "--since", "2020-01-01").out
    assert RUN not in voc_train("runs", "--since", "2120-01-01").out
