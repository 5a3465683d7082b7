"""What somebody wants who creates an instance: looked at before anything happens."""

import base64
import binascii
from dataclasses import dataclass

from infra.simulator import catalogue
from infra.simulator.account import Account
from infra.simulator.answers import JSON, Refusal, invalid
from infra.simulator.faults import Effect
from infra.simulator.operations import Call
from infra.simulator.things import Firewall, Instance, Script

LABEL_SIZES = range(3, 65)
LABEL = r"[a-zA-Z](?:(?!--|__|\.\.)[a-zA-Z0-9._-])+(?<=[a-zA-Z0-9])"
_MOST_USER_DATA = _MOST_SCRIPT_DATA = 65535
_PASSWORD = range(7, 129)


@dataclass(frozen=True)
class InstanceOrder:
    """A request to create an instance that can be met."""

    label: str
    tags: list[str]
    plan: str
    region: str
    image: str | None
    generation: str
    firewalls: list[Firewall]
    script: Script | None


def instance(account: Account, call: Call) -> InstanceOrder:
    """Understand a request. Raises the Refusal that the API would answer."""
    body = call.body
    region = catalogue.check_region(body.get("region"))
    plan = body.get("type")
    if not isinstance(plan, str) or plan not in catalogue.PLANS:
        raise Refusal("A valid plan type by that ID was not found", "type")
    image = body.get("image")
    if image is not None and image not in catalogue.IMAGES:
        raise invalid("image")
    tags = account.check_tags(body.get("tags"), call.restricted)
    label = body.get("label") or f"linode{10_000_000 + len(account.events)}"
    label = account.check_label(Instance, label, LABEL, LABEL_SIZES)
    _check_access(body, image)
    user_data(body)
    script = _script(account, body, image)
    generation, firewalls = _network(account, body)
    lacking = account.faults.strike(Effect.NO_CAPACITY, plan=plan, region=region)
    if lacking or not catalogue.has_stock(plan, region):
        raise Refusal("There is no availability for the selected plan in the selected region")
    return InstanceOrder(label, tags, plan, region, image, generation, firewalls, script)


def _check_access(body: JSON, image: str | None) -> None:
    password = body.get("root_pass")
    if password is not None and len(str(password)) not in _PASSWORD:
        raise Refusal("Password does not meet strength requirement", "root_pass")
    if image and not any(
        body.get(way) for way in ("root_pass", "authorized_keys", "authorized_users")
    ):
        raise Refusal("Must provide valid root_pass, authorized_keys, or authorized_users")
    for key in body.get("authorized_keys") or []:
        if not str(key).startswith(("ssh-", "ecdsa-", "sk-")):
            raise invalid("authorized_keys")


def user_data(body: JSON) -> str:
    """The cloud-config of a request, as text. Raises a Refusal."""
    encoded = (body.get("metadata") or {}).get("user_data") or ""
    try:
        raw = base64.b64decode(encoded, validate=True)
        text = raw.decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise Refusal("user_data must be base64 encoded", "metadata.user_data") from error
    if len(raw) > _MOST_USER_DATA:
        raise Refusal("user_data must not exceed 65535 bytes", "metadata.user_data")
    return text


def _script(account: Account, body: JSON, image: str | None) -> Script | None:
    id = body.get("stackscript_id")
    if id is None:
        return None
    script = next((each for each in account.all(Script) if each.id == id), None)
    if script is None:
        raise invalid("stackscript_id")
    if image not in script.images and "any/all" not in script.images:
        raise Refusal("The image is not among those of the StackScript", "image")
    data = body.get("stackscript_data") or {}
    if len(str(data)) > _MOST_SCRIPT_DATA:
        raise Refusal("Must not exceed 65535 characters", "stackscript_data")
    for field in script.fields():
        if field["name"] not in data and "default" not in field:
            raise Refusal(f"{field['name']} is required", f"stackscript_data.{field['name']}")
    return script


def _network(account: Account, body: JSON) -> tuple[str, list[Firewall]]:
    """The generation of the interfaces, and the firewalls in front of them."""
    default = account.settings["interfaces_for_new_linodes"]
    generation = body.get("interface_generation") or (
        "linode" if default.startswith("linode") else "legacy_config"
    )
    if f"{generation}_only" != default and default.endswith("_only"):
        raise invalid("interface_generation")
    if generation == "legacy_config":
        return generation, _firewalls(account, [body.get("firewall_id")], "firewall_id")
    if body.get("firewall_id") is not None:
        raise Refusal(
            "firewall_id is only for legacy interfaces: give each interface its own", "firewall_id"
        )
    interfaces = body.get("interfaces") or [{"public": {}}]
    wanted = [interface.get("firewall_id") for interface in interfaces]
    if None in wanted:
        raise Refusal("No default firewall is available", "interfaces.firewall_id")
    return generation, _firewalls(account, wanted, "interfaces.firewall_id")


def _firewalls(account: Account, ids: list[int | None], field: str) -> list[Firewall]:
    """Those that are meant; -1 says that there shall be none."""
    known = {firewall.id: firewall for firewall in account.all(Firewall)}
    wanted = [id for id in ids if id is not None and id != -1]
    if not set(wanted) <= set(known):
        raise invalid(field)
    return [known[id] for id in dict.fromkeys(wanted)]
