"""Machines, Volumes, firewalls, bucket keys and StackScripts of Linode, through its API v4."""

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Self
from urllib.parse import urlsplit

from infra.clock import Clock
from infra.failure import Cause, Failure
from infra.linode.api import Api, Timeouts, is_here
from infra.linode.invoices import read_statement
from infra.linode.offers import hourly_price, rank_offers
from infra.linode.things import (
    firewall_body,
    instance_body,
    read_thing,
    script_body,
    volume_body,
)
from infra.linode.token import HOW, find_token, missing_scopes
from infra.ownership import TAGGED
from infra.provider import (
    BucketKey,
    FirewallOrder,
    InstanceOrder,
    KeyOrder,
    Kind,
    Offer,
    Order,
    Provider,
    Refused,
    ScriptOrder,
    Statement,
    Thing,
    Unauthorised,
    Unclear,
    VolumeOrder,
)

URL = "https://api.linode.com/v4"
_REAL_TIME = Clock()
_TIMEOUTS = Timeouts()
_PATHS = {
    Kind.INSTANCE: "/linode/instances",
    Kind.VOLUME: "/volumes",
    Kind.FIREWALL: "/networking/firewalls",
    Kind.KEY: "/object-storage/keys",
    Kind.SCRIPT: "/linode/stackscripts",
}


class Linode(Provider):
    """Linode, as whoever has the token may use it.

    `url` ends in the API's version; `ca` is a file of certificate authorities, the computer's own
    where it is None. What waits, waits by `clock`; `timeouts` are in real seconds.
    """

    def __init__(
        self,
        token: str,
        url: str = URL,
        ca: str | None = None,
        clock: Clock = _REAL_TIME,
        ssh_port: int = 22,
        ssh_user: str = "root",
        timeouts: Timeouts = _TIMEOUTS,
    ) -> None:
        self._api = Api(token, url, ca, clock, timeouts)
        self.here = is_here(url)  # a simulator, whose machines see this computer's folders
        self._ssh_port = ssh_port
        self._ssh_user = ssh_user

    @classmethod
    def from_environment(cls, clock: Clock) -> Self:
        """As LINODE_TOKEN, LINODE_URL, LINODE_CA and VOC_TRAIN_SSH_PORT, _USER say.

        Raises Unauthorised where there is no token, Failure(BAD_INPUT) for anything unusable.
        """
        port = os.environ.get("VOC_TRAIN_SSH_PORT") or "22"
        if not port.isdecimal() or not 0 < int(port) < 65536:
            raise Failure(Cause.BAD_INPUT, f"VOC_TRAIN_SSH_PORT is no port: {port!r}.")
        url = os.environ.get("LINODE_URL") or URL
        if clock.speed != 1 and not is_here(url):
            raise Failure(
                Cause.BAD_INPUT,
                "VOC_TRAIN_CLOCK is a simulator's, and the real Linode bills real hours: unset it.",
            )
        return cls(
            find_token(),
            url,
            os.environ.get("LINODE_CA") or None,
            clock,
            int(port),
            os.environ.get("VOC_TRAIN_SSH_USER") or "root",
        )

    def check(self, kinds: Sequence[Kind]) -> None:
        try:
            profile = self._api.get("/profile", "show whose token this is") or {}
        except Unauthorised:
            # Even who lacks the scope for this is told which ones the token has.
            if not missing_scopes(self._api.scopes, kinds):
                raise
            profile = {}
        missing = missing_scopes(self._api.scopes, kinds)
        says = [f"the scopes {', '.join(missing)} are missing"] if missing else []
        if profile.get("restricted") and set(TAGGED) & set(kinds):
            says.append("its user is restricted, and only an unrestricted one can tag")
        if says:
            raise Unauthorised(f"The token does not reach: {'; '.join(says)}. Please {HOW}.")

    def offers(self, *, plan: str | None = None, region: str | None = None) -> list[Offer]:
        types = self._api.list_all("/linode/types", "list its plans")
        regions = self._api.list_all("/regions", "list its regions")
        free = self._api.list_all("/regions/availability", "say what is available")
        try:
            return rank_offers(types, regions, free, plan=plan, region=region)
        except (AttributeError, KeyError, TypeError, ValueError):
            pass
        raise Unclear("Linode's catalogue could not be read: try again later.")

    def create(self, order: Order) -> Thing | BucketKey:
        answer = self._api.create(
            _PATHS[order.kind], f"create the {order.kind} {order.label}", self._body(order)
        )
        thing = self._thing(order.kind, answer)
        if not isinstance(order, KeyOrder):
            return thing
        secrets = answer.get("access_key"), answer.get("secret_key")
        if not all(isinstance(secret, str) and secret for secret in secrets):
            raise Unclear(f"Linode created the key {order.label}, but did not show its secret.")
        return BucketKey(thing, *secrets)

    def list(self, kind: Kind, *, label: str | None = None, tag: str | None = None) -> list[Thing]:
        filters = _filters(kind, label, tag)
        items = self._api.list_all(_PATHS[kind], f"list every {kind}", filters)
        # Whether Linode heard the filter is not left to trust: what is listed may be deleted.
        things = [
            self._thing(kind, item)
            for item in items
            if kind is not Kind.SCRIPT or item.get("mine") is True
        ]
        return [
            thing
            for thing in things
            if (label is None or thing.label == label) and (tag is None or tag in thing.tags)
        ]

    def get(self, kind: Kind, id: int) -> Thing | None:
        answer = self._api.get(f"{_PATHS[kind]}/{id}", f"show the {kind} {id}")
        return None if answer is None else self._thing(kind, answer)

    def delete(self, kind: Kind, id: int) -> None:
        if kind is Kind.VOLUME and self._place(id) is not None:
            self._detach(id, self._api.create)
            return
        self._api.delete(f"{_PATHS[kind]}/{id}", f"delete the {kind} {id}")

    def price(self, thing: Thing) -> float | None:
        if thing.kind is Kind.INSTANCE:
            plan = self._api.get(f"/linode/types/{thing.plan}", f"show the plan {thing.plan}")
            return hourly_price(plan or {}, thing.region)
        if thing.kind is Kind.VOLUME:
            types = self._api.list_all("/volumes/types", "say what a volume costs")
            a_gb = hourly_price(types[0], thing.region) if types else None
            return None if a_gb is None else a_gb * thing.size_gb
        return 0.0  # Linode charges for the bucket and its traffic, not for what opens it

    def statement(self, since: datetime) -> Statement:
        time = since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
        invoices = self._api.list_all(
            "/account/invoices", "list its invoices", {"date": {"+gte": time}}
        )
        items = [
            self._api.list_all(
                f"/account/invoices/{one.get('id')}/items", "list an invoice's items"
            )
            for one in invoices
        ]
        account = self._api.get("/account", "show what is not invoiced yet")
        return read_statement(invoices, items, account)

    def settings(self) -> Mapping[str, Any]:
        """What the account has as its defaults, as GET /account/settings answers."""
        return self._api.get("/account/settings", "show the account's settings") or {}

    def endpoint_of(self, bucket: str) -> str:
        """URL of the S3 server that has a bucket of this account. Raises Refused without one."""
        found = [
            str(item.get("s3_endpoint"))
            for item in self._api.list_all("/object-storage/buckets", "list the buckets")
            if item.get("label") == bucket
        ]
        match found:
            case [endpoint]:
                return f"https://{endpoint}"
            case []:
                raise Refused(f"The account of this token has no bucket {bucket}.")
            case _:
                raise Refused(
                    f"The account has {len(found)} buckets named {bucket}, in several regions; say "
                    "which one's server in AWS_ENDPOINT_URL."
                )

    def shut_down(self, id: int) -> None:
        """Ask an instance to go down; it costs the same while it is off.

        It is down when `get` shows the state "offline"; down already is a success. Returns at once,
        but waits about two minutes for another job of the instance. Raises Unclear where that has
        not ended by then, and where it cannot be said whether this was heard: call again.
        """
        ask = partial(self._api.act, f"/linode/instances/{id}/shutdown", f"shut down instance {id}")
        self._unless_done(ask, lambda: self._state(id) in ("offline", "shutting_down"))

    def boot(self, id: int) -> None:
        """Ask an instance that is off to come up; it is up when `get` shows it ready.

        Up already is a success. Waits and raises as `shut_down` does.
        """
        ask = partial(self._api.act, f"/linode/instances/{id}/boot", f"boot instance {id}", {})
        self._unless_done(ask, lambda: self._state(id) in ("running", "booting"))

    def attach(self, volume_id: int, instance_id: int) -> None:
        """Ask for a Volume to be put into an instance of the same region.

        It is there when `get` shows it ready; there already is a success. Waits and raises as
        `shut_down` does, also while the Volume is leaving another instance.
        """
        if self._place(volume_id) == instance_id:
            return
        ask = partial(
            self._api.act,
            f"/volumes/{volume_id}/attach",
            f"attach volume {volume_id} to instance {instance_id}",
            # linode_api4's own attach sends "config" where the API wants "config_id".
            {"linode_id": instance_id},
        )
        self._unless_done(ask, lambda: self._place(volume_id) == instance_id)

    def detach(self, volume_id: int) -> None:
        """Ask for a Volume to be taken out of its instance.

        It is out when `get` shows no `attached_to`; absent or out already is a success. Waits and
        raises as `shut_down` does.
        """
        if self._place(volume_id) is not None:
            self._detach(volume_id, self._api.act)

    def _detach(self, id: int, ask: Callable[[str, str, dict[str, Any]], object]) -> None:
        self._unless_done(
            partial(ask, f"/volumes/{id}/detach", f"detach volume {id}", {}),
            lambda: self._place(id) is None,
        )

    def _unless_done(self, ask: Callable[[], object], is_done: Callable[[], bool]) -> None:
        """What was refused because it is done is a success: an earlier call was heard."""
        try:
            ask()
        except Refused:
            if not is_done():
                raise

    def _state(self, instance: int) -> str | None:
        thing = self.get(Kind.INSTANCE, instance)
        return thing.state if thing else None

    def _place(self, volume: int) -> int | None:
        """The instance that has it."""
        thing = self.get(Kind.VOLUME, volume)
        return thing.attached_to if thing else None

    def _thing(self, kind: Kind, item: Any) -> Thing:
        return read_thing(kind, item, ssh_port=self._ssh_port, ssh_user=self._ssh_user)

    def _body(self, order: Order) -> dict[str, Any]:
        match order:
            case InstanceOrder():
                return instance_body(order, interfaces=self._wants_interfaces())
            case VolumeOrder():
                return volume_body(order)
            case FirewallOrder():
                return firewall_body(order)
            case ScriptOrder():
                return script_body(order)
            case KeyOrder():
                access = {
                    "region": self._region_of(order),
                    "bucket_name": order.bucket,
                    "permissions": "read_write",
                }
                return {"label": order.label, "bucket_access": [access]}

    def _wants_interfaces(self) -> bool:
        """Whether the account has no machines with interfaces of the older kind.

        All others get the older kind, whatever is the account's default: there the firewall
        stands beside the machine, and cannot be lost with an interface.
        """
        return self.settings().get("interfaces_for_new_linodes") == "linode_only"

    def _region_of(self, order: KeyOrder) -> str:
        """Where a bucket's server stands."""
        wanted = urlsplit(order.endpoint).netloc.lower().removesuffix(":443")
        endpoints = self._api.list_all("/object-storage/endpoints", "list its object storage")
        servers = {str(item.get("s3_endpoint")).lower(): item.get("region") for item in endpoints}
        if region := servers.get(wanted):
            return str(region)
        raise Refused(
            f"{order.endpoint} is not an endpoint of Linode Object Storage, so no key can be made "
            "for it: set AWS_ENDPOINT_URL to https://REGION.linodeobjects.com, as the bucket has."
        )


def _filters(kind: Kind, label: str | None, tag: str | None) -> dict[str, Any] | None:
    """What Linode itself can leave out; it refuses filters by fields that it does not filter."""
    filters: dict[str, Any] = {"mine": True} if kind is Kind.SCRIPT else {}
    if label is not None and kind is not Kind.KEY:
        filters["label"] = label
    if tag is not None and kind in TAGGED:
        filters["tags"] = tag
    return filters or None
