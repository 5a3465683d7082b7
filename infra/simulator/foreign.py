"""Things of somebody else's, of which a test shows that nobody touches them."""

import secrets

from infra.simulator.account import Account
from infra.simulator.answers import JSON
from infra.simulator.storage_keys import Bucket, Key
from infra.simulator.things import Firewall, Instance, Script, Thing, Volume

_RULES: JSON = {
    "inbound": [],
    "inbound_policy": "DROP",
    "outbound": [],
    "outbound_policy": "ACCEPT",
    "version": 1,
    "fingerprint": "00000000",
}


def foreign(account: Account, kind: str, label: str, tags: list[str]) -> Thing:
    """A thing of a kind (infra.provider.Kind, or "bucket"). Raises KeyError for others."""
    now = account.now()
    known: JSON = {"id": next(account.ids), "label": label, "tags": tags, "foreign": True}
    known |= {"created": now, "updated": now}
    match kind:
        case "instance":
            return Instance(
                **known,
                plan="g6-nanode-1",
                region="us-ord",
                address="192.0.2.1",
                image="linode/debian12",
                interface_generation="linode",
                status="running",
            )
        case "volume":
            return Volume(**known, region="us-ord", size=20, status="active")
        case "firewall":
            return Firewall(**known, rules=_RULES)
        case "stackscript":
            return Script(
                **known,
                script="#!/bin/bash\n",
                images=["linode/debian12"],
                username="somebody",
                is_public=True,
            )
        case "key":
            return Key(**known, access_key=secrets.token_hex(10), secret_key="")
        case "bucket":
            endpoint = "us-ord-1.linodeobjects.com"
            return Bucket(**known, region="us-ord", endpoint=endpoint, endpoint_type="E1")
    raise KeyError(kind)
