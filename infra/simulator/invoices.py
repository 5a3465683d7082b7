"""What the account is charged: an invoice for each month that is over, the rest uninvoiced.

The official specification names the fields and says little of what stands in them; there are no
recordings. An item's label, as in "Linode 2GB - NAME (ID)", an hourly unit price in spite of its
"monthly service fee", and an hour's being billed in the month in which it begins are our best
reading of what customers show of their invoices.
"""

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from infra.simulator import catalogue
from infra.simulator.account import Account
from infra.simulator.answers import JSON, not_found, stamp
from infra.simulator.operations import Call, Operation, Result, fields
from infra.simulator.things import Instance, Thing, Volume

_HOUR = timedelta(hours=1)
_NEVER = datetime.max.replace(tzinfo=UTC)
_NIGHT = timedelta(minutes=1, seconds=1)  # from a month's end until its invoice is there


class Invoices:
    """Answers for /account/invoices."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def operations(self) -> list[Operation]:
        read, one = "account:read_only", "/account/invoices/{id:int}"
        filterable = fields("billing_source date label total")
        return [
            Operation("GET", "/account/invoices", read, self._list, filterable),
            Operation("GET", one, read, self._get),
            Operation("GET", f"{one}/items", read, self._items),
        ]

    def uninvoiced(self) -> float:
        """Dollars of what is on no invoice yet."""
        month = _begin(self._account.now() - _NIGHT)
        return _sum(self._items_of(month, _NEVER))

    def _list(self, call: Call) -> Sequence[JSON]:
        begins = sorted({_begin(thing.created) for thing in self._paid()})
        last = _begin(self._account.now() - _NIGHT)
        invoices = []
        month = begins[0] if begins else last
        while month < last:
            if items := self._items_of(month, _next(month)):
                invoices.append(_invoice(month, items))
            month = _next(month)
        return invoices

    def _get(self, call: Call) -> JSON:
        for invoice in self._list(call):
            if invoice["id"] == call.id:
                return invoice
        raise not_found()

    def _items(self, call: Call) -> Result:
        self._get(call)
        month = datetime(call.id // 100, call.id % 100, 1, tzinfo=UTC)
        return self._items_of(month, _next(month))

    def _paid(self) -> list[Instance | Volume]:
        things = [*self._account.past, *self._account.everything()]
        return [one for one in things if isinstance(one, Instance | Volume) and not one.foreign]

    def _items_of(self, begin: datetime, end: datetime) -> list[JSON]:
        items = []
        for thing in self._paid():
            gone = thing.gone or self._account.now()
            hours = _hours_before(thing, gone, end) - _hours_before(thing, gone, begin)
            if hours and thing.hourly:
                items.append(_item(thing, hours, max(begin, thing.created), min(end, gone)))
        return items


def _hours_before(thing: Thing, gone: datetime, time: datetime) -> int:
    """Hours that had begun by then."""
    all_hours = max(1, math.ceil((gone - thing.created) / _HOUR))
    return min(all_hours, max(0, math.ceil((time - thing.created) / _HOUR)))


def _item(thing: Instance | Volume, hours: int, begin: datetime, end: datetime) -> JSON:
    what = "Storage Volume"
    if isinstance(thing, Instance):
        what = str(catalogue.plan(thing.plan)["label"])
    dollars = round(hours * thing.hourly, 6)
    return {
        "label": f"{what} - {thing.label} ({thing.id})",
        "type": "hourly",
        "unit_price": f"{thing.hourly:g}",
        "quantity": hours,
        "amount": dollars,
        "tax": 0.0,
        "total": dollars,
        "from": stamp(begin),
        "to": stamp(end),
        "region": thing.region,
    }


def _invoice(month: datetime, items: Sequence[JSON]) -> JSON:
    dollars = _sum(items)
    return {
        "id": month.year * 100 + month.month,
        "date": stamp(_next(month) + _NIGHT),
        "label": "Invoice",
        "billing_source": "linode",
        "subtotal": dollars,
        "tax": 0.0,
        "tax_summary": [],
        "total": dollars,
    }


def _sum(items: Sequence[JSON]) -> float:
    return round(math.fsum(item["amount"] for item in items), 2)


def _begin(time: datetime) -> datetime:
    return time.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _next(month: datetime) -> datetime:
    return _begin(month + timedelta(days=31))
