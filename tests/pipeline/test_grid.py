"""The grid of a sweep: what is fixed, what varies, and what cannot be compared."""

import pytest

from model.errors import InputError
from pipeline.grid import combinations, split


def test_commas_separate_values() -> None:
    fixed, grid = split({"lr": "1e-3, 3e-4", "batch_size": "4,8", "epochs": "20"})
    assert fixed == {"epochs": "20"}
    assert grid == {"lr": ["1e-3", "3e-4"], "batch_size": ["4", "8"]}


@pytest.mark.parametrize(
    ("key", "one", "several"),
    [
        ("scale", "0.5,2", ["0.5,2", "0.8,1.25"]),
        ("multi_scale", "0.75,1,1.25", ["none", "0.75,1,1.25"]),
        ("image_size", "96,128", ["96", "96,128"]),
        ("loss", "bce + dice", ["bce", "bce + dice"]),
    ],
)
def test_values_with_commas_of_their_own_are_separated_by_semicolons(
    key: str, one: str, several: list[str]
) -> None:
    assert split({key: one}) == ({key: one}, {})
    assert split({key: "; ".join(several)}) == ({}, {key: several})
    assert len(combinations("voc-segmentnet", {}, {key: several})) == 2


def test_every_combination_is_tried_the_last_setting_changing_first() -> None:
    grid = {"lr": ["1e-3", "3e-4"], "batch_size": ["4", "8"]}
    assert combinations("tiny", {}, grid) == [
        {"lr": "1e-3", "batch_size": "4"},
        {"lr": "1e-3", "batch_size": "8"},
        {"lr": "3e-4", "batch_size": "4"},
        {"lr": "3e-4", "batch_size": "8"},
    ]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"lr": "1e-3"}, "several values"),
        ({}, "several values"),
        ({"lr": "1e-3,"}, "empty value"),
        ({"lr": "1e-3,0.001"}, "lr=1e-3 and lr=0.001 are the same"),
        ({"lr": "1e-3,fast"}, "'fast' does not fit"),
        ({"speed": "1,2"}, "no setting 'speed'"),
        ({"seed": ",".join(map(str, range(100)))}, "100 combinations"),
        ({"optimiser": "sgd", "lr": "1e-3,11"}, "'11' does not fit"),
    ],
)
def test_what_cannot_be_compared_is_refused(typed: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        combinations("tiny", *split(typed))
