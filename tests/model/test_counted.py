"""Counts read as a person writes them."""

from model.counted import counted


def test_one_is_one_and_all_else_is_many() -> None:
    said = [counted(number, "photo") for number in (0, 1, 2, 1464)]
    assert said == ["0 photos", "1 photo", "2 photos", "1,464 photos"]
