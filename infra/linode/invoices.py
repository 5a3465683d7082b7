"""Linode's invoices read as charges: what an hour of a machine was billed at, by Linode itself."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from infra.linode.things import moment
from infra.provider import Charge, Statement, Unclear

Item = Mapping[str, Any]


def read_statement(
    invoices: Sequence[Item], items: Iterable[Sequence[Item]], account: Any
) -> Statement:
    """`Provider.statement`, from what the API lists; `items` are those of each invoice.

    Raises Unclear where the answers are not such as Linode's.
    """
    try:
        dates = [moment(invoice["date"]) for invoice in invoices]
        charges = (
            Charge(
                text=str(item["label"]),
                # Credits and the like belong to no time of their own.
                begun=moment(item["from"]) if item.get("from") else date,
                dollars=_dollars(item["amount"]),
            )
            for date, listed in zip(dates, items, strict=True)
            for item in listed
        )
        uninvoiced = _dollars(account["balance_uninvoiced"])
        return Statement(tuple(charges), max(dates, default=None), uninvoiced)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
        pass
    raise Unclear("Linode's invoices could not be read: try again later.")


def _dollars(amount: Any) -> float:
    dollars = float(amount)
    if not math.isfinite(dollars):
        raise ValueError(amount)
    return dollars
