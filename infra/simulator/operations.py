"""What a resource's file says about the requests that it answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from infra.simulator.answers import JSON
from infra.simulator.things import Thing


@dataclass(frozen=True)
class Call:
    """A request that has been understood, from somebody who may make it."""

    path: str
    params: dict[str, Any]
    body: JSON = field(default_factory=dict)
    restricted: bool = False  # the user may not tag
    known: bool = True  # a token came with it

    @property
    def id(self) -> int:
        return int(self.params["id"])

    def text(self, name: str) -> str:
        """A part of the path."""
        return str(self.params[name])


# An object, or all rows of a collection, of which a page is shown.
Result = JSON | Sequence[Thing] | Sequence[JSON]


@dataclass(frozen=True)
class Operation:
    """One method on one path; `scopes` separated by commas, none where anybody may ask."""

    method: str
    path: str  # as Starlette has it, without the version
    scopes: str
    answer: Callable[[Call], Result]
    filterable: frozenset[str] = frozenset()
    public: bool = False  # no token is needed


def fields(names: str) -> frozenset[str]:
    """Names out of one string, for `filterable`."""
    return frozenset(names.split())
