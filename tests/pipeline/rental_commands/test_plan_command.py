"""`voc-train plan` as it is typed: prices and all that would be rented, and nothing touched."""

import json

import pytest

from commands import VocTrain, home_store
from infra.simulator import Simulator


def test_a_plan_shows_prices_and_everything_and_touches_nothing(
    voc_train: VocTrain, simulator: Simulator, requests: list[str]
) -> None:
    said = voc_train("plan", "--region", "us-ord", "--ssh-from", "192.0.2.7/32")

    assert said.code == 0, said
    for words in (
        "g2-gpu-rtx4000a1-s us-ord RTX4000 Ada x1 Small 0.52 yes",
        "first hour $0.52",
        "worst case $4.68",
        "at most $5.00, the budget",
        "a machine g2-gpu-rtx4000a1-s in us-ord",
        "SSH in from 192.0.2.7/32",
        "StackScript",
    ):
        assert words in said.words
    assert max(len(line) for line in said.out.splitlines()) <= 80
    assert simulator.left() == []
    assert requests
    assert all(line.startswith("GET ") for line in requests)
    assert not home_store().exists()


@pytest.mark.parametrize("route", ["bucket", "volume"])
@pytest.mark.parametrize("prepare_on", ["local", "linode"])
@pytest.mark.parametrize("budget", [0.7, 1.57, 5, 40])
def test_the_worst_case_never_passes_the_budget(
    voc_train: VocTrain, simulator: Simulator, route: str, prepare_on: str, budget: float
) -> None:
    more = ("--route", route, "--prepare-on", prepare_on, "--budget", budget)
    plan = json.loads(voc_train("plan", "--json", *more).out)
    assert plan["at_most_dollars"] == budget
    assert 0.52 <= plan["first_hour_dollars"] <= plan["worst_case_dollars"] <= budget


def test_the_worst_case_is_the_dearest_offer_for_all_its_hours(
    voc_train: VocTrain, simulator: Simulator
) -> None:
    asked = ("--budget", 100, "--limit", "train_hours=3", "--region", "us-ord")
    plan = json.loads(voc_train("plan", "--json", *asked).out)
    dearest = max(offer["dollars_per_hour"] for offer in plan["offers"])
    assert plan["hours"] == 4
    assert plan["worst_case_dollars"] == pytest.approx(4 * dearest)


def test_the_volume_route_shows_its_second_machine_and_its_volume(
    voc_train: VocTrain, simulator: Simulator
) -> None:
    local = json.loads(voc_train("plan", "--json").out)
    said = voc_train("plan", "--route", "volume")
    volume = json.loads(voc_train("plan", "--route", "volume", "--json").out)

    assert "a machine g6-standard-2 to prepare the data, $0.036 an hour" in said.words
    assert "a Volume of 20 GB, $0.003 an hour; after a failure it stays a day, for $0.07" in (
        said.words
    )
    # The machine, the Volume, and the day that the Volume may stay.
    assert volume["first_hour_dollars"] - local["first_hour_dollars"] == pytest.approx(
        0.036 + 0.003 + 24 * 0.003
    )


def test_a_machine_that_prepares_is_shown(voc_train: VocTrain, simulator: Simulator) -> None:
    said = voc_train("plan", "--prepare-on", "linode")
    assert "a machine g6-standard-2 to prepare the data" in said.words
    assert "Volume" not in said.words


def test_a_machine_that_prepares_stands_where_the_best_gpu_is(
    voc_train: VocTrain, simulator: Simulator
) -> None:
    plan = json.loads(voc_train("plan", "--route", "volume", "--json").out)
    with_gpu = list(dict.fromkeys(offer["region"] for offer in plan["offers"]))
    assert [offer["region"] for offer in plan["preparers"]] == with_gpu


def test_what_a_rental_would_lack_is_said_and_the_price_all_the_same(
    voc_train: VocTrain, simulator: Simulator
) -> None:
    without = voc_train("plan")
    assert without.code == 0
    assert "No reaper that deletes has looked" in without.words
    assert "at most $5.00" in without.words
    assert voc_train("reap", "--delete").code == 0
    assert json.loads(voc_train("plan", "--json").out)["lacks"] == []


def test_who_names_no_plan_gets_about_what_is_shown_first(
    voc_train: VocTrain, simulator: Simulator
) -> None:
    offers = json.loads(voc_train("plan", "--json", "--budget", "100").out)["offers"]
    prices = [offer["dollars_per_hour"] for offer in offers]
    assert max(prices) <= 2.1 * min(prices)
    named = json.loads(voc_train("plan", "--json", "--plan", "g2-gpu-rtx4000a4-s").out)["offers"]
    assert {offer["plan"] for offer in named} == {"g2-gpu-rtx4000a4-s"}
