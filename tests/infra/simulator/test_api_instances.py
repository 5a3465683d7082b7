"""The life of an instance, as linode_api4 sees it."""

from datetime import timedelta
from typing import Any

import pytest
from linode_api4 import ApiError

_SSH_ONLY = {
    "inbound": [
        {
            "action": "ACCEPT",
            "protocol": "TCP",
            "ports": "22",
            "addresses": {"ipv4": ["127.0.0.1/32"]},
            "label": "ssh",
        }
    ],
    "inbound_policy": "DROP",
    "outbound_policy": "ACCEPT",
}


def test_an_instance_comes_up_in_its_time(account: Any, clock: Any) -> None:
    instance = account.instance()
    assert instance.status == "provisioning"
    assert str(instance.ipv4[0]).startswith("127.")
    seen = [account.status(instance.id)]
    for seconds in (40, 1, 23, 1):
        clock.move(seconds)
        seen.append(account.status(instance.id))
    assert seen == ["provisioning", "provisioning", "booting", "booting", "running"]


def test_events_tell_of_a_creation_with_percents(account: Any, clock: Any) -> None:
    instance = account.instance()
    filter = {"action": "linode_create", "entity.id": instance.id, "entity.type": "linode"}
    percents = []
    for seconds in (0, 20, 21):
        clock.move(seconds)
        (event,) = account.linode.get("/account/events", filters=filter)["data"]
        percents.append((event["status"], event["percent_complete"]))
    assert percents == [("scheduled", 0), ("started", 56), ("finished", 100)]


def test_unbooted_and_empty_instances_end_offline(account: Any, clock: Any) -> None:
    unbooted = account.instance("unbooted", booted=False)
    empty = account.instance("empty", image=None)
    clock.move(120)
    assert account.status(unbooted.id) == account.status(empty.id) == "offline"


def test_one_read_after_an_action_is_stale(account: Any, clock: Any) -> None:
    instance = account.running()
    instance.shutdown()
    assert account.status(instance.id) == "running"
    assert account.status(instance.id) == "shutting_down"
    clock.move(28)
    assert account.status(instance.id) == "offline"


def test_an_instance_with_a_job_is_busy(account: Any, clock: Any) -> None:
    instance = account.instance()
    with pytest.raises(ApiError, match="Linode busy.") as busy:
        instance.boot()
    assert busy.value.status == 400
    clock.move(41)
    account.status(instance.id)
    with pytest.raises(ApiError, match="Linode busy."):
        instance.shutdown()


def test_boot_after_shutdown_and_reboot(account: Any, clock: Any) -> None:
    instance = account.running()
    instance.shutdown()
    clock.move(28)
    account.status(instance.id)
    instance.boot()
    account.status(instance.id)
    assert account.status(instance.id) == "booting"
    clock.move(24)
    assert account.status(instance.id) == "running"
    instance.reboot()
    account.status(instance.id)
    assert account.status(instance.id) == "rebooting"


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"region": "nowhere"}, "region is not valid"),
        ({"image": "linode/none"}, "image is not valid"),
        ({"ltype": "g9-nothing"}, "plan type"),
        ({"label": "a--b"}, "not allowed"),
        ({"label": "ab"}, "Length must be 3-64"),
        ({"tags": ["x" * 51]}, "Length must be 3-50"),
        ({"firewall": 4711}, "firewall_id is not valid"),
        ({"stackscript": 4711}, "stackscript_id is not valid"),
        ({"ltype": "g1-gpu-rtx6000-1", "region": "us-ord"}, "no availability"),
        ({"metadata": {"user_data": "not base64!"}}, "base64"),
    ],
)
def test_what_cannot_be_had_is_refused_and_costs_nothing(
    shared_account: Any, wanted: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ApiError, match=reason) as refused:
        shared_account.instance(**wanted)
    assert refused.value.status == 400
    assert shared_account.simulator.bill() == []


def test_nobody_gets_in_without_a_key_or_a_password(account: Any) -> None:
    order = {"type": "g6-nanode-1", "region": "us-ord", "image": "linode/debian12"}
    answer = account.http.post("/linode/instances", json=order)
    assert answer.status_code == 400
    assert answer.json() == {
        "errors": [{"reason": "Must provide valid root_pass, authorized_keys, or authorized_users"}]
    }


def test_labels_are_unique_until_the_first_is_gone(account: Any, clock: Any) -> None:
    first = account.instance("same")
    with pytest.raises(ApiError, match="Label must be unique among your linodes"):
        account.instance("same")
    first.delete()
    with pytest.raises(ApiError, match="Label must be unique"):
        account.instance("same")
    clock.move(5)
    account.instance("same")


def test_a_deleted_instance_is_listed_until_it_is_gone(account: Any, clock: Any) -> None:
    instance = account.running()
    instance.delete()
    assert account.status(instance.id) == "running"
    assert account.status(instance.id) == "deleting"
    instance.delete()
    clock.move(5)
    with pytest.raises(ApiError, match="Not found") as gone:
        account.status(instance.id)
    assert gone.value.status == 404
    assert list(account.linode.linode.instances()) == []


def test_a_firewall_stands_before_legacy_interfaces_only(account: Any) -> None:
    firewall = account.linode.networking.firewall_create("fire", _SSH_ONLY, tags=["voc-train"])
    instance = account.instance("behind", firewall=firewall)
    (entity,) = account.get(f"/networking/firewalls/{firewall.id}")["entities"]
    assert (entity["id"], entity["type"]) == (instance.id, "linode")
    with pytest.raises(ApiError, match="only for legacy interfaces"):
        account.instance("newer", firewall=firewall, interface_generation="linode")
    with pytest.raises(ApiError, match="No default firewall"):
        # What a new account does unless it is told otherwise.
        account.instance("default", interface_generation=None)
    interfaces = [{"firewall_id": firewall.id, "public": {}}]
    account.instance("own", interface_generation="linode", interfaces=interfaces)
    assert len(account.get(f"/networking/firewalls/{firewall.id}")["entities"]) == 2


def test_a_script_needs_its_fields(account: Any) -> None:
    text = '#!/bin/bash\n# <UDF name="requirements" label="R" />\n# <UDF name="b" default="1"/>\n'
    script = account.linode.linode.stackscript_create("script", text, ["linode/ubuntu24.04"])
    names = [
        field["name"]
        for field in account.get(f"/linode/stackscripts/{script.id}")["user_defined_fields"]
    ]
    assert names == ["requirements", "b"]
    with pytest.raises(ApiError, match="requirements is required"):
        account.instance("without", stackscript=script)
    account.instance("with", stackscript=script, stackscript_data={"requirements": "a==1"})
    data = {"requirements": "a==1"}
    with pytest.raises(ApiError, match="not among those"):
        account.instance(
            "image", image="linode/debian12", stackscript=script, stackscript_data=data
        )


def test_the_bill_counts_every_begun_hour_until_deletion(account: Any, clock: Any) -> None:
    instance = account.running()
    account.linode.volumes.create("disk", region="us-ord", size=20)
    instance.shutdown()  # which ends nothing of its price
    clock.move(2 * 3600)
    instance.delete()
    clock.move(3600)  # nobody looks meanwhile
    machine, disk = account.simulator.bill()
    assert (machine.kind, machine.label, machine.hours) == ("instance", "voc-train-a", 3)
    assert machine.dollars == pytest.approx(3 * 0.0075)
    assert machine.gone == machine.created + timedelta(seconds=65 + 2 * 3600 + 5)
    assert (disk.kind, disk.hours, disk.gone) == ("volume", 3, None)
    assert disk.dollars == pytest.approx(3 * 20 * 0.00015)


def test_dearer_regions_cost_more(account: Any, clock: Any) -> None:
    account.instance(region="br-gru")
    (line,) = account.simulator.bill()
    assert line.dollars == pytest.approx(0.0105)
