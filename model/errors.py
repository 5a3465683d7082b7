"""What can go wrong in this room, said in a sentence."""

import difflib
from collections.abc import Iterable

from pydantic import ValidationError


class InputError(ValueError):
    """Bad input: the message is one or two sentences that name the thing and the cure."""


class TrainingError(RuntimeError):
    """Training went wrong; `cause` is a word of the one enumeration of causes."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


def first_problem(error: ValidationError) -> tuple[str, str]:
    """What pydantic found first: where ("limits.shard_mb", "" for the whole), and its complaint.

    The complaint is the middle of a sentence: it begins in lower case and has no full stop.
    """
    problem = error.errors()[0]
    said = problem["msg"].removeprefix("Value error, ").rstrip(".")
    return ".".join(map(str, problem["loc"])), said[:1].lower() + said[1:]


def suggestion(name: str, known: Iterable[str]) -> str:
    """What to say of a name that is not among the `known`: the closest one, and all there are."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}There are: {', '.join(known)}."
