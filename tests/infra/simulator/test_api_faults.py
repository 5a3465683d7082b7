"""Everything that goes wrong on request does, where and as often as was asked, and then no more."""

from typing import Any

import httpx
import pytest
from linode_api4 import ApiError

_ORDER = {"type": "g6-nanode-1", "region": "us-ord", "label": "voc-train-x"}
_ORDER["interface_generation"] = "legacy_config"


def _labels(account: Any) -> list[str]:
    return [row["label"] for row in account.get("/linode/instances")["data"]]


def test_no_capacity_for_a_plan_in_a_region(account: Any) -> None:
    account.simulator.faults.add("no_capacity", plan="g6-*", region="us-ord", times=1)
    account.instance("elsewhere", region="us-sea")
    with pytest.raises(ApiError, match="no availability"):
        account.instance("first")
    account.instance("second")
    assert _labels(account) == ["elsewhere", "second"]


def test_a_create_that_succeeds_but_answers_502(account: Any) -> None:
    account.simulator.faults.add("acted_502", method="POST", path="/linode/instances", times=1)
    assert account.http.post("/linode/instances", json=_ORDER).status_code == 502
    assert _labels(account) == ["voc-train-x"]
    assert account.http.post("/linode/instances", json=_ORDER).status_code == 400


@pytest.mark.parametrize(("effect", "there"), [("acted_silent", True), ("silent", False)])
def test_a_create_that_never_answers(account: Any, effect: str, there: bool) -> None:
    account.simulator.faults.add(effect, method="POST", times=1)
    with pytest.raises(httpx.ReadTimeout):
        account.http.post("/linode/instances", json=_ORDER, timeout=0.3)
    assert _labels(account) == (["voc-train-x"] if there else [])


def test_429_and_500(account: Any) -> None:
    account.simulator.faults.add("rate_limited", path="/volumes*", seconds=7, times=1)
    account.simulator.faults.add("server_error", path="/volumes", status=504, times=1, skip=1)
    assert account.http.get("/regions").status_code == 200
    first, second, third, fourth = (account.http.get("/volumes") for _ in range(4))
    assert (first.status_code, first.headers["Retry-After"]) == (429, "7")
    assert second.status_code == 200
    assert third.status_code == 504
    assert fourth.status_code == 200


def test_an_expired_token_and_a_missing_scope(account: Any) -> None:
    fault = account.simulator.faults.add("expired_token")
    assert account.http.get("/profile").status_code == 401
    account.simulator.faults.remove(fault)
    account.simulator.faults.add("missing_scope", scope="volumes:*")
    answer = account.http.get("/profile")
    assert "linodes:read_write" in answer.headers["X-OAuth-Scopes"]
    assert "volumes" not in answer.headers["X-OAuth-Scopes"]
    assert account.http.get("/volumes").status_code == 401
    assert account.http.get("/linode/instances").status_code == 200


def test_a_vanished_instance(account: Any, clock: Any) -> None:
    account.instance("stays")
    gone = account.instance("goes")
    account.simulator.faults.add("vanish", label="goes", times=1)
    assert _labels(account) == ["stays"]
    with pytest.raises(ApiError, match="Not found"):
        account.status(gone.id)


def test_a_boot_that_never_ends(account: Any, clock: Any) -> None:
    account.simulator.faults.add("boot_never_ends", times=1)
    instance = account.instance()
    clock.move(24 * 3600)
    assert account.status(instance.id) == "booting"
    instance.delete()
    clock.move(5)
    assert _labels(account) == []


def test_a_delete_that_lingers_and_one_that_fails(account: Any, clock: Any) -> None:
    faults = account.simulator.faults
    faults.add("delete_lingers", label="slow", seconds=600, times=1)
    faults.add("delete_fails", label="never", times=1)
    slow, never = account.running("slow"), account.running("never")
    slow.delete()
    never.delete()
    clock.move(599)
    assert _labels(account) == ["slow", "never"]
    clock.move(1)
    assert _labels(account) == ["never"]
    assert account.status(never.id) == "running"
    never.delete()
    clock.move(5)
    assert _labels(account) == []


def test_a_volume_whose_delete_lingers(account: Any, clock: Any) -> None:
    account.simulator.faults.add("delete_lingers", path="/volumes/*", seconds=60)
    volume = account.linode.volumes.create("disk", region="us-ord")
    volume.delete()
    assert len(account.get("/volumes")["data"]) == 1
    clock.move(60)
    assert account.get("/volumes")["data"] == []


@pytest.mark.parametrize(("effect", "price"), [("price_zero", 0), ("price_none", None)])
def test_prices_that_say_nothing(account: Any, effect: str, price: Any) -> None:
    account.simulator.faults.add(effect, plan="g1-gpu-*")
    types = {plan["id"]: plan["price"]["hourly"] for plan in account.get("/linode/types")["data"]}
    assert types["g1-gpu-rtx6000-1"] == price
    assert types["g6-nanode-1"] == 0.0075


def test_a_listing_that_leaves_something_out_once(account: Any) -> None:
    for label in ("one", "two"):
        account.instance(label)
    account.simulator.faults.add("stale_listing", label="two", times=1)
    assert [_labels(account), _labels(account)] == [["one"], ["one", "two"]]


def test_faults_over_http(account: Any, simulator: Any) -> None:
    url = simulator.url.replace("/v4", "/faults")
    assert account.http.post(url, json={"effect": "server_error", "path": "/v*"}).status_code == 200
    assert account.http.get("/volumes").status_code == 500
    for wrong in (
        {"effect": "none"},
        {"effect": "silent", "x": 1},
        {},
        {"effect": "silent", "times": "x"},
    ):
        assert account.http.post(url, json=wrong).status_code == 400
    (standing,) = account.http.get(url).json()["faults"]
    assert standing["path"] == "/v*"
    account.http.delete(url)
    assert account.http.get("/volumes").status_code == 200
