"""What can go wrong in this room, said in a sentence."""

import difflib
import errno
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

# What pydantic says of a model's fields in the words of a programmer, by the type of its error.
_IN_OUR_WORDS = {
    "missing": "it is missing",
    "extra_forbidden": "there is no such setting",
    "too_short": "needs at least {min_length}",
    "too_long": "takes at most {max_length}",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "bool_parsing": "must be true or false",
    "literal_error": "must be {expected}",
}
_DISK = {
    errno.ENOSPC: "is full; free some space there",
    errno.EDQUOT: "is full, by its quota; free some space there",
    errno.EFBIG: "takes no file so large; raise its limit",
    errno.EROFS: "is read-only; make it writable",
}


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
    if ours := _IN_OUR_WORDS.get(problem["type"]):
        bounds = problem.get("ctx", {}).items()
        said = ours.format(**{name: _whole(bound) for name, bound in bounds})
    else:
        said = problem["msg"].removeprefix("Value error, ").rstrip(".")
    return ".".join(map(str, problem["loc"])), said[:1].lower() + said[1:]


def _whole(bound: object) -> object:
    """A bound as its writer put it: pydantic makes 0.0 of the 0 of a float's field."""
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound


def disk_problem(error: OSError, folder: Path) -> str | None:
    """What to do about a disk that takes nothing more, or None where that is not what is wrong.

    `folder` is what was being written to, where the error itself names no file.
    """
    if error.errno not in _DISK:
        return None
    where = Path(error.filename).parent if error.filename else folder
    return f"The disk of {where} {_DISK[error.errno]}, or choose another, and start again."


def suggestion(name: str, known: Iterable[str]) -> str:
    """What to say of a name that is not among the `known`: the closest one, and all there are."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}There are: {', '.join(known)}."
