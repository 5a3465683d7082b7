"""X-Filter and pages: how the API gives part of a collection."""

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from infra.simulator.answers import JSON, Refusal

Row = TypeVar("Row")

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "+gt": lambda have, want: have > want,
    "+gte": lambda have, want: have >= want,
    "+lt": lambda have, want: have < want,
    "+lte": lambda have, want: have <= want,
    "+neq": lambda have, want: have != want,
    "+contains": lambda have, want: want in have,
}


def filtered(
    rows: list[tuple[Row, JSON]], header: str | None, filterable: Collection[str]
) -> list[tuple[Row, JSON]]:
    """The rows that match the header, in its order; each comes with what the API shows of it.

    Raises a Refusal for a field that is not `filterable`, or a filter that cannot be read.
    """
    if not header:
        return rows
    try:
        query = json.loads(header)
    except ValueError:
        query = None
    if not isinstance(query, dict):
        raise Refusal("Invalid JSON", "X-Filter")
    query = dict(query)
    order_by, order = query.pop("+order_by", None), query.pop("+order", "asc")
    for field in _fields(query) | ({order_by} if order_by else set()):
        if field not in filterable:
            raise Refusal(f"Cannot filter on {field}", "X-Filter")
    try:
        found = [row for row in rows if _matches(row[1], query)]
    except TypeError as error:
        raise Refusal("Invalid filter value", "X-Filter") from error
    if order_by:
        found.sort(key=lambda row: _value(row[1], order_by), reverse=order == "desc")
    return found


def page(rows: list[Any], query: Mapping[str, str]) -> tuple[list[Any], JSON]:
    """One page of the rows, and the numbers that go with it. Raises a Refusal."""
    number, size = _whole(query, "page", 1), _whole(query, "page_size", 100)
    if not 25 <= size <= 500:
        raise Refusal("Must be between 25 and 500", "page_size")
    pages = max(1, -(-len(rows) // size))
    if not 1 <= number <= pages:
        raise Refusal("Not found", status=404)
    shown = rows[(number - 1) * size : number * size]
    return shown, {"page": number, "pages": pages, "results": len(rows)}


def _whole(query: Mapping[str, str], name: str, default: int) -> int:
    try:
        return int(query.get(name, default))
    except ValueError as error:
        raise Refusal("Must be of type Integer", name) from error


def _fields(query: JSON) -> set[str]:
    fields: set[str] = set()
    for key, value in query.items():
        if key in ("+and", "+or"):
            for part in value:
                fields |= _fields(part)
        elif key.startswith("+"):
            raise Refusal(f"Unknown operator {key}", "X-Filter")
        else:
            fields.add(key)
    return fields


def _matches(shown: JSON, query: JSON) -> bool:
    return all(_clause(shown, key, value) for key, value in query.items())


def _clause(shown: JSON, key: str, want: Any) -> bool:
    if key == "+and":
        return all(_matches(shown, part) for part in want)
    if key == "+or":
        return any(_matches(shown, part) for part in want)
    have = _value(shown, key)
    if isinstance(want, dict):
        if not set(want) <= set(_COMPARE):
            raise Refusal("Unknown operator", "X-Filter")
        return all(_COMPARE[operator](have, bound) for operator, bound in want.items())
    return want in have if isinstance(have, list) else bool(have == want)


def _value(shown: JSON, field: str) -> Any:
    value: Any = shown
    for part in field.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
