"""What the API answers: refusals in the words it was recorded with, and its way to write time."""

from datetime import datetime
from typing import Any

JSON = dict[str, Any]


class Refusal(Exception):
    """An error answer: `{"errors": [{"reason": ..., "field": ...}]}` with its HTTP status."""

    def __init__(
        self,
        reason: str,
        field: str | None = None,
        *,
        status: int = 400,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, reason, field)
        self.status = status
        self.reason = reason
        self.headers = headers or {}
        self.body: JSON = {"errors": [{"reason": reason} | ({"field": field} if field else {})]}


def not_found() -> Refusal:
    return Refusal("Not found", status=404)


def busy() -> Refusal:
    """A job runs on that Linode; what was asked has to wait until it is done."""
    return Refusal("Linode busy.")


def invalid(field: str) -> Refusal:
    return Refusal(f"{field} is not valid", field)


def without_nulls(body: JSON) -> JSON:
    """A request's body; a null says the same as a field that is not there, as recordings show."""
    return {
        name: without_nulls(value) if isinstance(value, dict) else value
        for name, value in body.items()
        if value is not None
    }


def stamp(time: datetime | None) -> str | None:
    """UTC without a zone, to the second, as the API has it."""
    return None if time is None else time.strftime("%Y-%m-%dT%H:%M:%S")
