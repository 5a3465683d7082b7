"""What is there before anything is created: plans, regions, the user, the account, its events."""

from collections.abc import Callable, Sequence
from typing import Any

from infra.simulator import catalogue
from infra.simulator.account import USERNAME, Account
from infra.simulator.answers import JSON, Refusal, not_found
from infra.simulator.faults import Effect
from infra.simulator.operations import Call, Operation, Result, fields
from infra.simulator.things import Instance, Thing, Volume


class Surroundings:
    """Answers for plans, regions, images, profile, account, events and tags."""

    def __init__(self, account: Account, uninvoiced: Callable[[], float]) -> None:
        self._account = account
        self._uninvoiced = uninvoiced

    def operations(self) -> list[Operation]:
        read, write = "account:read_only", "account:read_write"
        types = fields("id label class disk gpus memory network_out transfer vcpus")
        regions = fields("country site_type")
        stock = fields("region plan available")
        events = fields("id action created entity.id entity.type read seen status")
        return [
            Operation("GET", "/linode/types", "", self._types, types, public=True),
            Operation("GET", "/linode/types/{plan}", "", self._type, public=True),
            Operation("GET", "/regions", "", self._regions, regions, public=True),
            Operation("GET", "/regions/availability", "", self._stock, stock, public=True),
            Operation("GET", "/regions/{region}", "", self._region, public=True),
            Operation("GET", "/regions/{region}/availability", "", self._stock_in, public=True),
            Operation("GET", "/images", "", self._images, fields("id label"), public=True),
            Operation("GET", "/images/linode/{image}", "", self._image, public=True),
            Operation("GET", "/profile", "", self._profile),
            Operation("GET", "/account", read, self._account_itself),
            Operation("GET", "/account/settings", read, lambda call: self._account.settings),
            Operation("PUT", "/account/settings", write, self._change_settings),
            Operation("GET", "/account/events", "events:read_only", self._events, events),
            Operation("GET", "/account/events/{id:int}", "events:read_only", self._event),
            Operation("GET", "/tags", read, self._tags, fields("label")),
            Operation("GET", "/tags/{label:path}", read, self._tagged),
        ]

    def _types(self, call: Call) -> Result:
        return [self._priced(id, call) for id in catalogue.PLANS]

    def _type(self, call: Call) -> JSON:
        catalogue.plan(call.text("plan"))
        return self._priced(call.text("plan"), call)

    def _priced(self, id: str, call: Call) -> JSON:
        plan = catalogue.plan(id)
        faults = self._account.faults
        unknown: Any = ...
        if not call.known and plan["gpus"]:
            unknown = 0  # what a GPU costs is not shown to just anybody
        if faults.strike(Effect.PRICE_ZERO, plan=id):
            unknown = 0
        if faults.strike(Effect.PRICE_NONE, plan=id):
            unknown = None
        if unknown is not ...:
            plan |= {"price": {"hourly": unknown, "monthly": unknown}, "region_prices": []}
        return plan

    def _regions(self, call: Call) -> Result:
        return [catalogue.region(id) for id in catalogue.REGIONS]

    def _region(self, call: Call) -> JSON:
        return catalogue.region(call.text("region"))

    def _stock(self, call: Call) -> Result:
        return catalogue.availability()

    def _stock_in(self, call: Call) -> Result:
        catalogue.region(call.text("region"))
        return catalogue.availability(call.text("region"))

    def _images(self, call: Call) -> Result:
        return [catalogue.image(id) for id in catalogue.IMAGES]

    def _image(self, call: Call) -> JSON:
        return catalogue.image(f"linode/{call.text('image')}")

    def _profile(self, call: Call) -> JSON:
        return {
            "uid": 1,
            "username": USERNAME,
            "email": f"{USERNAME}@example.com",
            "timezone": "UTC",
            "email_notifications": True,
            "referrals": {
                "code": "rehearsal",
                "url": "https://www.linode.com/?r=rehearsal",
                "total": 0,
                "completed": 0,
                "pending": 0,
                "credit": 0.0,
            },
            "ip_whitelist_enabled": False,
            "lish_auth_method": "password_keys",
            "authorized_keys": None,
            "two_factor_auth": True,
            "restricted": call.restricted,
            "authentication_type": "password",
            "verified_phone_number": None,
        }

    def _account_itself(self, call: Call) -> JSON:
        return {
            "company": "",
            "email": f"{USERNAME}@example.com",
            "first_name": "Rehearsal",
            "last_name": "",
            "address_1": "",
            "address_2": "",
            "city": "",
            "state": "",
            "zip": "",
            "country": "US",
            "phone": "",
            "tax_id": "",
            "balance": 0.0,
            "balance_uninvoiced": self._uninvoiced(),
            "billing_source": "linode",
            "credit_card": {"last_four": None, "expiry": None},
            "active_since": "2020-01-01T00:00:00",
            "active_promotions": [],
            "capabilities": ["Linodes", "Block Storage", "Object Storage", "Linode Interfaces"],
            "euuid": "00000000-0000-0000-0000-000000000000",
        }

    def _change_settings(self, call: Call) -> JSON:
        unknown = set(call.body) - set(self._account.settings)
        if unknown:
            raise Refusal("Unknown setting", min(unknown))
        self._account.settings |= call.body
        return self._account.settings

    def _events(self, call: Call) -> Result:
        now = self._account.clock.now()
        return [event.view(now) for event in reversed(self._account.events)]

    def _event(self, call: Call) -> JSON:
        for event in self._account.events:
            if event.id == call.id:
                return event.view(self._account.clock.now())
        raise not_found()

    def _tags(self, call: Call) -> Result:
        labels = sorted({tag for thing in self._account.everything() for tag in thing.tags})
        return [{"label": label} for label in labels]

    def _tagged(self, call: Call) -> Result:
        wanted = call.text("label")
        found: Sequence[Thing] = [
            thing for thing in self._account.everything() if wanted in thing.tags
        ]
        if not found:
            raise not_found()
        # Firewalls have tags, but a tag does not lead to them.
        kinds = (Instance, Volume)
        return [
            {"type": thing.type, "data": thing.view()}
            for thing in found
            if isinstance(thing, kinds)
        ]
