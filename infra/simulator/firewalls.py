"""The firewalls of an account, and whom they let in."""

import hashlib
import ipaddress
import json
from collections.abc import Sequence
from itertools import chain

from infra.simulator.account import Account
from infra.simulator.answers import JSON, Refusal, invalid, not_found, stamp
from infra.simulator.operations import Call, Operation, Result, fields
from infra.simulator.things import Firewall, Instance

_LABEL_SIZES = range(3, 33)
_LABEL = r"[a-zA-Z](?:(?!--|__|\.\.)[a-zA-Z0-9._-])+"
_ACTIONS = ("ACCEPT", "DROP")
_PROTOCOLS = ("TCP", "UDP", "ICMP", "IPENCAP")
_SSH = 22


class Firewalls:
    """Answers for /networking/firewalls."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def operations(self) -> list[Operation]:
        every = "/networking/firewalls"
        one, device = f"{every}/{{id:int}}", f"{every}/{{id:int}}/devices/{{device:int}}"
        read, write = "firewall:read_only", "firewall:read_write"
        filterable = fields("created id label tags updated")
        return [
            Operation("GET", every, read, self._list, filterable),
            Operation("POST", every, write, self._create),
            Operation("GET", f"{every}/settings", read, self._settings),
            Operation("GET", one, read, self._get),
            Operation("PUT", one, write, self._update),
            Operation("DELETE", one, write, self._delete),
            Operation("GET", f"{one}/rules", read, self._rules),
            Operation("PUT", f"{one}/rules", write, self._set_rules),
            Operation("GET", f"{one}/devices", read, self._devices),
            Operation("POST", f"{one}/devices", write, self._add_device),
            Operation("GET", device, read, self._device),
            Operation("DELETE", device, write, self._remove_device),
        ]

    def admits(self, instance: Instance, client: str) -> bool:
        """Whether a client's address reaches the instance's port 22.

        Asked from the machine's own thread, which must not wait for whoever changes things: so it
        looks without the account's lock.
        """
        walls = [
            firewall
            for firewall in self._account.all(Firewall)
            if firewall.status == "enabled" and instance in list(firewall.devices.values())
        ]
        return all(_admits(firewall.rules, client) for firewall in walls)

    def _list(self, call: Call) -> Sequence[Firewall]:
        return self._account.all(Firewall)

    def _get(self, call: Call) -> JSON:
        return self._account.find(Firewall, call.id).view()

    def _settings(self, call: Call) -> JSON:
        kinds = ("linode", "nodebalancer", "public_interface", "vpc_interface")
        return {"default_firewall_ids": dict.fromkeys(kinds)}

    def _create(self, call: Call) -> JSON:
        account, now = self._account, self._account.now()
        firewall = Firewall(
            id=next(account.ids),
            label=account.check_label(Firewall, call.body.get("label"), _LABEL, _LABEL_SIZES),
            created=now,
            updated=now,
            tags=account.check_tags(call.body.get("tags"), call.restricted),
            rules=_checked(call.body.get("rules"), version=1),
        )
        for id in (call.body.get("devices") or {}).get("linodes") or []:
            firewall.devices[next(account.ids)] = self._instance(id)
        account.add(firewall)
        account.log("firewall_create", firewall)
        return firewall.view()

    def _update(self, call: Call) -> JSON:
        account = self._account
        firewall = account.find(Firewall, call.id)
        label = call.body.get("label", firewall.label)
        if label != firewall.label:
            firewall.label = account.check_label(Firewall, label, _LABEL, _LABEL_SIZES)
        if "tags" in call.body:
            firewall.tags = account.check_tags(call.body["tags"], call.restricted)
        status = call.body.get("status", firewall.status)
        if status not in ("enabled", "disabled"):
            raise invalid("status")
        firewall.status, firewall.updated = status, account.now()
        return firewall.view()

    def _delete(self, call: Call) -> JSON:
        firewall = self._account.find(Firewall, call.id)
        self._account.delete(firewall, 0, lambda: self._account.remove(firewall))
        return {}

    def _rules(self, call: Call) -> JSON:
        return self._account.find(Firewall, call.id).rules

    def _set_rules(self, call: Call) -> JSON:
        firewall = self._account.find(Firewall, call.id)
        firewall.rules = _checked(call.body, version=firewall.rules["version"] + 1)
        firewall.updated = self._account.now()
        return firewall.rules

    def _devices(self, call: Call) -> Result:
        firewall = self._account.find(Firewall, call.id)
        return [self._shown(firewall, id, at) for id, at in firewall.devices.items()]

    def _shown(self, firewall: Firewall, id: int, at: Instance) -> JSON:
        return {
            "id": id,
            "created": stamp(firewall.updated),
            "updated": stamp(firewall.updated),
            "entity": at.entity() | {"parent_entity": None},
        }

    def _instance(self, id: object) -> Instance:
        at = next((each for each in self._account.all(Instance) if each.id == id), None)
        if at is None:
            raise invalid("id")
        return at

    def _add_device(self, call: Call) -> JSON:
        firewall = self._account.find(Firewall, call.id)
        if call.body.get("type") != "linode":
            raise invalid("type")
        at = self._instance(call.body.get("id"))
        if at.interface_generation != "legacy_config":
            raise Refusal("A Linode with Linode interfaces has its firewalls at these", "id")
        if at in firewall.devices.values():
            raise Refusal("Linode is already assigned to this firewall", "id")
        device = next(self._account.ids)
        firewall.devices[device] = at
        firewall.updated = self._account.now()
        return self._shown(firewall, device, at)

    def _device(self, call: Call) -> JSON:
        firewall, id = self._account.find(Firewall, call.id), int(call.params["device"])
        if id not in firewall.devices:
            raise not_found()
        return self._shown(firewall, id, firewall.devices[id])

    def _remove_device(self, call: Call) -> JSON:
        firewall = self._account.find(Firewall, call.id)
        if firewall.devices.pop(int(call.params["device"]), None) is None:
            raise not_found()
        return {}


def _checked(rules: object, version: int) -> JSON:
    """Rules as they are kept. Raises a Refusal."""
    if not isinstance(rules, dict):
        raise Refusal("rules is required", "rules")
    kept: JSON = {}
    for way in ("inbound", "outbound"):
        kept[way] = [_checked_rule(way, rule) for rule in rules.get(way) or []]
        policy = rules.get(f"{way}_policy")
        if policy not in _ACTIONS:
            raise Refusal("Must be ACCEPT or DROP", f"rules.{way}_policy")
        kept[f"{way}_policy"] = policy
    fingerprint = hashlib.sha1(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:8]
    return kept | {"version": version, "fingerprint": fingerprint}


def _checked_rule(way: str, rule: JSON) -> JSON:
    field = f"rules.{way}"
    if rule.get("action") not in _ACTIONS:
        raise Refusal("Must be ACCEPT or DROP", f"{field}.action")
    if rule.get("protocol") not in _PROTOCOLS:
        raise Refusal("Must be TCP, UDP, ICMP or IPENCAP", f"{field}.protocol")
    addresses = rule.get("addresses") or {}
    for address in chain(addresses.get("ipv4") or [], addresses.get("ipv6") or []):
        try:
            ipaddress.ip_network(address, strict=False)
        except ValueError as error:
            raise Refusal("Must be an IP address or network", f"{field}.addresses") from error
    if rule["protocol"] in ("TCP", "UDP") and rule.get("ports"):
        try:
            list(_port_ranges(rule["ports"]))
        except ValueError as error:
            raise Refusal("Must be ports, or ranges of them", f"{field}.ports") from error
    return {name: value for name, value in rule.items() if value is not None}


def _port_ranges(ports: str) -> Sequence[range]:
    ranges = []
    for part in ports.split(","):
        first, _, last = part.partition("-")
        ranges.append(range(int(first), int(last or first) + 1))
    return ranges


def _admits(rules: JSON, client: str) -> bool:
    address = ipaddress.ip_address(client)
    for rule in rules["inbound"]:
        ports = rule.get("ports")
        if rule["protocol"] != "TCP" or (
            ports and not any(_SSH in wanted for wanted in _port_ranges(ports))
        ):
            continue
        known = rule.get("addresses") or {}
        networks = chain(known.get("ipv4") or [], known.get("ipv6") or [])
        if any(address in ipaddress.ip_network(network, strict=False) for network in networks):
            return bool(rule["action"] == "ACCEPT")
    return bool(rules["inbound_policy"] == "ACCEPT")
