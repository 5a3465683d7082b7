"""What went wrong, in the user's words."""

import errno
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.errors import disk_problem, first_problem


class Shelf(BaseModel):
    model_config = ConfigDict(extra="forbid")

    books: tuple[str, ...] = Field(min_length=2, max_length=3)
    metres: float = Field(1, gt=0, le=2.5)
    boards: int = Field(1, ge=1)
    wood: Literal["oak", "pine"] = "oak"


@pytest.mark.parametrize(
    ("given", "where", "said"),
    [
        ({"books": ("a", "b"), "cups": 3}, "cups", "there is no such setting"),
        ({}, "books", "it is missing"),
        ({"books": ("a",)}, "books", "needs at least 2"),
        ({"books": ("a",) * 4}, "books", "takes at most 3"),
        ({"books": ("a", 5)}, "books.1", "input should be a valid string"),
        ({"books": ("a", "b"), "metres": 0}, "metres", "must be more than 0"),
        ({"books": ("a", "b"), "metres": 3}, "metres", "must be at most 2.5"),
        ({"books": ("a", "b"), "metres": "long"}, "metres", "must be a number"),
        ({"books": ("a", "b"), "boards": "2.5"}, "boards", "must be a whole number"),
        ({"books": ("a", "b"), "wood": "ash"}, "wood", "must be 'oak' or 'pine'"),
    ],
)
def test_pydantics_words_are_the_users(given: dict[str, object], where: str, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Shelf.model_validate(given)
    assert first_problem(caught.value) == (where, said)


def test_only_a_disk_that_takes_nothing_more_is_a_problem_of_the_disk() -> None:
    folder = Path("/job/out")
    full = disk_problem(OSError(errno.ENOSPC, "No space left on device"), folder)
    assert full
    assert "/job/out is full; free some space" in full
    elsewhere = OSError(errno.EROFS, "Read-only file system", "/tmp/x/file")
    read_only = disk_problem(elsewhere, folder)
    assert read_only
    assert "/tmp/x is read-only" in read_only
    assert disk_problem(OSError(errno.ENOENT, "No such file"), folder) is None
