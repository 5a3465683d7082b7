"""Whom a firewall lets in, and how its rules change."""

from typing import Any

import pytest
from linode_api4 import ApiError

from infra.simulator.firewalls import Firewalls
from infra.simulator.things import Instance


def _rule(*networks: str, action: str = "ACCEPT", ports: str | None = "22") -> dict[str, Any]:
    addresses = {"ipv4": [network for network in networks if ":" not in network]}
    rule = {"action": action, "protocol": "TCP", "addresses": addresses, "label": "rule"}
    return rule | ({"ports": ports} if ports else {})


def _rules(*inbound: dict[str, Any], policy: str = "DROP") -> dict[str, Any]:
    return {"inbound": list(inbound), "inbound_policy": policy, "outbound_policy": "ACCEPT"}


def _admitted(account: Any, instance: Any, *clients: str) -> list[str]:
    state = account.simulator.account
    walls, at = Firewalls(state), state.find(Instance, instance.id)
    return [client for client in clients if walls.admits(at, client)]


@pytest.mark.parametrize(
    ("rules", "admitted"),
    [
        (_rules(), []),
        (_rules(policy="ACCEPT"), ["127.0.0.1", "127.0.0.2"]),
        (_rules(_rule("127.0.0.1/32")), ["127.0.0.1"]),
        (_rules(_rule("127.0.0.0/8", ports="80,20-25")), ["127.0.0.1", "127.0.0.2"]),
        (_rules(_rule("127.0.0.0/8", ports="80,443")), []),
        (_rules(_rule("127.0.0.0/8", ports=None)), ["127.0.0.1", "127.0.0.2"]),
        (_rules(_rule("127.0.0.2", action="DROP"), _rule("127.0.0.0/8")), ["127.0.0.1"]),
    ],
)
def test_who_reaches_ssh(account: Any, rules: dict[str, Any], admitted: list[str]) -> None:
    wall = account.linode.networking.firewall_create("fire", rules)
    instance = account.instance(firewall=wall)
    assert _admitted(account, instance, "127.0.0.1", "127.0.0.2") == admitted
    wall.status = "disabled"
    wall.save()
    assert _admitted(account, instance, "127.0.0.1", "127.0.0.2") == ["127.0.0.1", "127.0.0.2"]


def test_rules_can_be_changed_later(account: Any) -> None:
    wall = account.linode.networking.firewall_create("fire", _rules(_rule("127.0.0.1")))
    instance = account.instance(firewall=wall)
    wall.update_rules(_rules(_rule("127.0.0.1", "127.0.0.2")))
    assert account.get(f"/networking/firewalls/{wall.id}/rules")["version"] == 2
    assert _admitted(account, instance, "127.0.0.2") == ["127.0.0.2"]


def test_a_device_comes_and_goes(account: Any) -> None:
    wall = account.linode.networking.firewall_create("fire", _rules())
    instance = account.instance()
    assert _admitted(account, instance, "127.0.0.1") == ["127.0.0.1"]
    device = wall.device_create(instance.id)
    assert _admitted(account, instance, "127.0.0.1") == []
    device.delete()
    assert _admitted(account, instance, "127.0.0.1") == ["127.0.0.1"]
    wall.delete()
    assert list(account.linode.networking.firewalls()) == []


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        ({"inbound": []}, "inbound_policy"),
        (_rules(_rule("nowhere")), "addresses"),
        (_rules(_rule("127.0.0.1", ports="ssh")), "ports"),
        (_rules(_rule("127.0.0.1", action="LET")), "action"),
    ],
)
def test_rules_that_make_no_sense(shared_account: Any, rules: dict[str, Any], field: str) -> None:
    with pytest.raises(ApiError) as refused:
        shared_account.linode.networking.firewall_create("fire", rules)
    assert field in refused.value.json["errors"][0]["field"]
