"""The tables on standard output."""

import re

import pytest

from model.recipe import Recipe
from model.recipes import RECIPES
from pipeline.tables import print_recipes


def rows(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> dict[str, list[str]]:
    """What is printed of each setting: its value, and what is said of it."""
    print_recipes([recipe])
    lines = [re.split(r" {2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]
    return {name: rest for name, *rest in lines if name in Recipe.model_fields}


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=list(RECIPES))
def test_every_value_is_printed_as_it_can_be_set(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = {name: said[0] for name, said in rows(recipe, capsys).items()}
    assert printed.keys() == Recipe.model_fields.keys() - {"name", "summary"}
    assert not [value for value in printed.values() if value[0] in "([" or value[0].isupper()]
    other = recipe.model_copy(update={"scale": (1.0, 1.0), "min_miou": 0.5, "lr": 0.5})
    assert other.override(printed) == recipe


def test_choices_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    printed = rows(RECIPES["tiny"], capsys)
    assert printed["precision"][1].startswith("one of auto, fp32, bf16, fp16; ")
    assert printed["net"] == ["segmentnet", "the only one so far"]
