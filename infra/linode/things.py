"""Our words and Linode's: an order as the body of a request, an answer as a thing."""

import base64
import ipaddress
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from infra.provider import (
    Endpoint,
    FirewallOrder,
    InstanceOrder,
    Kind,
    Refused,
    ScriptOrder,
    Thing,
    Unclear,
    VolumeOrder,
)

IMAGE = "linode/ubuntu24.04"
_SWAP_MB = 512
# Addresses that only other machines of the same data centre reach.
_PRIVATE = ipaddress.ip_network("192.168.128.0/17")

Body = dict[str, Any]


def instance_body(order: InstanceOrder, *, interfaces: bool) -> Body:
    """`interfaces`: with Linode's newer interfaces, each of which has its own firewall."""
    network: Body = {"interface_generation": "legacy_config", "firewall_id": order.firewall}
    if interfaces:
        ipv4 = {"addresses": [{"address": "auto", "primary": True}]}
        public = {"firewall_id": order.firewall, "public": {"ipv4": ipv4, "ipv6": {}}}
        network = {"interface_generation": "linode", "interfaces": [public]}
    script: Body = {}
    if order.script is not None:
        script = {"stackscript_id": order.script, "stackscript_data": order.script_data}
    return {
        "label": order.label,
        "tags": list(order.tags),
        "type": order.plan,
        "region": order.region,
        "image": IMAGE,
        "authorized_keys": [order.authorized_key.strip()],
        "metadata": {"user_data": base64.b64encode(order.user_data.encode()).decode()},
        "booted": True,
        "swap_size": _SWAP_MB,
        "private_ip": False,
        "backups_enabled": False,  # an account may add them to every machine, and they cost
        **network,
        **script,
    }


def volume_body(order: VolumeOrder) -> Body:
    """An unattached Volume; Linode encrypts it where it can."""
    return {
        "label": order.label,
        "tags": list(order.tags),
        "region": order.region,
        "size": order.size_gb,
    }


def firewall_body(order: FirewallOrder) -> Body:
    """Raises Refused where a network is not written in CIDR."""
    addresses: dict[str, list[str]] = {}
    for network in order.ssh_from:
        try:
            version = ipaddress.ip_network(network, strict=False).version
        except ValueError:
            version = None
        if version is None:
            raise Refused(f"{network} is no network in CIDR notation, as 203.0.113.7/32 is.")
        addresses.setdefault(f"ipv{version}", []).append(network)
    ssh = {
        "label": "ssh",
        "action": "ACCEPT",
        "protocol": "TCP",
        "ports": "22",
        "addresses": addresses,
    }
    return {
        "label": order.label,
        "tags": list(order.tags),
        "rules": {
            "inbound": [ssh] if addresses else [],
            "inbound_policy": "DROP",
            "outbound": [],
            "outbound_policy": "ACCEPT",
        },
    }


def script_body(order: ScriptOrder) -> Body:
    """A private script: a public one could never be made private again."""
    return {
        "label": order.label,
        "description": order.description,
        "script": order.script,
        "images": [IMAGE],
        "is_public": False,
    }


def read_thing(kind: Kind, item: Any, *, ssh_port: int, ssh_user: str) -> Thing:
    """A thing out of an answer. Raises Unclear where the answer is not one of Linode's."""
    try:
        return _read_thing(kind, item, ssh_port, ssh_user)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
        pass
    raise Unclear(f"Linode's answer does not describe the {kind} it should: try again later.")


def _read_thing(kind: Kind, item: Mapping[str, Any], ssh_port: int, ssh_user: str) -> Thing:
    created = item.get("created")
    state = str(item.get("status", ""))
    address = _public_address(item["ipv4"]) if kind is Kind.INSTANCE else None
    attached_to = item["linode_id"] if kind is Kind.VOLUME else None
    ready = {
        Kind.INSTANCE: state == "running",
        Kind.VOLUME: state == "active" and attached_to is not None and bool(item.get("io_ready")),
    }
    return Thing(
        kind=kind,
        id=int(item["id"]),
        label=str(item["label"]),
        tags=frozenset(item.get("tags") or ()),
        created=moment(created) if created else None,
        state=state,
        region=str(item.get("region", "")),
        plan=str(item.get("type", "")),
        endpoint=Endpoint(address, ssh_port, ssh_user) if address else None,
        attached_to=None if attached_to is None else int(attached_to),
        ready=ready.get(kind, False),
        size_gb=int(item.get("size", 0)),
        text=str(item.get("script", "")),
        description=str(item.get("description") or ""),
        buckets=tuple(str(one["bucket_name"]) for one in item.get("bucket_access") or ()),
    )


def moment(text: str) -> datetime:
    """Linode's times are in UTC and do not say so."""
    time = datetime.fromisoformat(text)
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _public_address(addresses: Iterable[str]) -> str | None:
    # Not ipaddress.is_private, which also means the networks that are for documentation only.
    return next((a for a in addresses if ipaddress.ip_address(a) not in _PRIVATE), None)
