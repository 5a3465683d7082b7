"""Pages, filters and tags: how much of a collection is shown."""

import json
from typing import Any

import pytest
from linode_api4 import ApiError, Instance, StackScript


def test_all_pages_of_many_things(account: Any) -> None:
    labels = [f"other-{number}" for number in range(230)]
    for label in labels:
        account.simulator.add_foreign("instance", label, ["other"])
    assert [instance.label for instance in account.linode.linode.instances()] == labels
    page = account.get("/linode/instances?page=3&page_size=100")
    assert (page["page"], page["pages"], page["results"], len(page["data"])) == (3, 3, 230, 30)


@pytest.mark.parametrize("size", [24, 501])
def test_pages_have_sizes_that_are_allowed(shared_account: Any, size: int) -> None:
    with pytest.raises(ApiError, match="between 25 and 500"):
        shared_account.get(f"/linode/instances?page_size={size}")


@pytest.fixture(scope="module")
def colours(shared_account: Any) -> Any:
    """Three Volumes with tags."""
    for label, tags in (("a", ["red"]), ("b", ["red", "blue"]), ("c", [])):
        shared_account.simulator.add_foreign("volume", label, tags)
    return shared_account


@pytest.mark.parametrize(
    ("filter", "found"),
    [
        ({"label": "b"}, ["b"]),
        ({"tags": "red"}, ["a", "b"]),
        ({"tags": {"+contains": "red"}}, ["a", "b"]),
        ({"label": {"+contains": "a"}}, ["a"]),
        ({"label": {"+neq": "b"}}, ["a", "c"]),
        ({"label": {"+gte": "b"}}, ["b", "c"]),
        ({"+or": [{"label": "a"}, {"label": "c"}]}, ["a", "c"]),
        ({"+and": [{"tags": "red"}, {"tags": "blue"}]}, ["b"]),
        ({"+order_by": "label", "+order": "desc"}, ["c", "b", "a"]),
        ({"tags": "gone"}, []),
    ],
)
def test_filters(colours: Any, filter: dict[str, Any], found: list[str]) -> None:
    data = colours.linode.get("/volumes", filters=filter)["data"]
    assert [volume["label"] for volume in data] == found


def test_what_cannot_be_filtered_on_is_refused(account: Any) -> None:
    answer = account.http.get("/linode/instances", headers={"X-Filter": '{"foo": 1}'})
    assert answer.status_code == 400
    assert answer.json() == {"errors": [{"reason": "Cannot filter on foo", "field": "X-Filter"}]}
    for broken in ("{", "[]", '{"+foo": 1}', '{"label": {"+gt": 1}}'):
        account.simulator.add_foreign("instance", "any")
        answer = account.http.get("/linode/instances", headers={"X-Filter": broken})
        assert answer.status_code == 400


def test_a_tag_in_the_query_is_ignored(account: Any) -> None:
    account.simulator.add_foreign("instance", "mine", ["voc-train"])
    account.simulator.add_foreign("instance", "others", [])
    assert len(account.get("/linode/instances?tag=voc-train")["data"]) == 2


def test_tags_lead_to_what_has_them(account: Any) -> None:
    account.instance("tagged", tags=["voc-train:run:r", "voc-train", "voc-train"])
    assert [tag.label for tag in account.linode.tags()] == ["voc-train", "voc-train:run:r"]
    (found,) = account.get("/tags/voc-train:run:r")["data"]
    assert (found["type"], found["data"]["label"]) == ("linode", "tagged")
    with pytest.raises(ApiError, match="Not found"):
        account.get("/tags/none")


def test_scripts_of_others_are_listed_unless_one_asks_for_ones_own(account: Any) -> None:
    other = account.simulator.add_foreign("stackscript", "voc-train-public")
    account.linode.linode.stackscript_create("mine", "#!/bin/bash\n", ["linode/ubuntu24.04"])
    assert len(account.linode.linode.stackscripts()) == 2
    (own,) = account.linode.linode.stackscripts(StackScript.mine == True)  # noqa: E712
    assert own.label == "mine"
    with pytest.raises(ApiError, match="Not found"):
        account.linode.delete(f"/linode/stackscripts/{other}")


def test_the_official_client_filters_as_it_does_elsewhere(account: Any) -> None:
    for label in ("one", "two"):
        account.instance(label)
    (found,) = account.linode.linode.instances(Instance.label == "two")
    assert found.label == "two"


def test_what_gpus_cost_and_where_they_are(account: Any) -> None:
    types = {plan["id"]: plan for plan in account.get("/linode/types")["data"]}
    assert types["g1-gpu-rtx6000-1"]["price"]["hourly"] == 1.5
    assert types["g2-gpu-rtx4000a1-s"]["price"]["hourly"] == 0.52
    rows = account.get("/regions/us-ord/availability")["data"]
    stock = {row["plan"]: row["available"] for row in rows}
    assert stock["g2-gpu-rtx4000a1-s"]
    assert not stock["g1-gpu-rtx6000-1"]
    assert "g6-nanode-1" not in stock
    # Whoever does not say who they are sees no price of a GPU.
    del account.http.headers["Authorization"]
    public = account.http.get("/linode/types/g1-gpu-rtx6000-1").json()
    assert public["price"]["hourly"] == 0
    assert account.http.get("/linode/types/none").status_code == 404


def test_events_newest_first_by_filter(account: Any, clock: Any) -> None:
    account.running()
    header = json.dumps({"action": "linode_boot", "+order_by": "created", "+order": "desc"})
    events = account.http.get("/account/events", headers={"X-Filter": header}).json()["data"]
    assert [event["action"] for event in events] == ["linode_boot"]
    everything = account.get("/account/events")["data"]
    assert [event["action"] for event in everything] == ["linode_boot", "linode_create"]
    assert account.get(f"/account/events/{events[0]['id']}")["status"] == "finished"
