"""The tables on standard output."""

import re

import pytest

from model.evaluate import Score
from model.recipe import Recipe
from model.recipes import RECIPES
from pipeline.tables import print_recipe, print_recipes, print_score


def rows(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> dict[str, list[str]]:
    """What is printed of each setting: its value, and what is said of it."""
    print_recipe(recipe)
    lines = [re.split(r" {2,}", line[2:].strip()) for line in capsys.readouterr().out.splitlines()]
    return {name: rest for name, *rest in lines if name in Recipe.model_fields}


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "240")


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
    assert printed["optimiser"][1] == "one of adamw, adam, sgd"


def test_what_is_not_the_default_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Recipe(name="a", summary="for tests", lr=0.5, rotate=10.0)
    print_recipe(recipe)
    lines = capsys.readouterr().out.splitlines()
    marked = [line.split()[1] for line in lines if line.startswith("* ") and "default" not in line]
    assert marked == ["lr"]


def test_all_recipes_stand_in_one_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_recipes(RECIPES.values())
    out = capsys.readouterr().out
    assert len(out.splitlines()) < 4 * len(RECIPES)
    words = " ".join(out.split())
    for name, recipe in RECIPES.items():
        assert f"{name} " in out
        assert recipe.summary.split()[0] in words
    assert "unet, bce, 320x480 pixels, 20 epochs" in words
    assert "resnet_unet (resnet34), " in words


def test_a_score_names_iou_and_dice_of_each_class(capsys: pytest.CaptureFixture[str]) -> None:
    print_score(
        Score(
            split="val",
            images=3,
            miou=0.5,
            iou={"[a]": 0.5, "b": None},
            mean_dice=0.6667,
            dice={"[a]": 0.6667, "b": None},
            pixel_accuracy=0.9,
            loss=1.0,
        )
    )
    out = capsys.readouterr().out
    assert re.search(r"^\[a\] +0\.5000 +0\.6667$", out, re.MULTILINE)
    assert re.search(r"^b +– +–$", out, re.MULTILINE)
    assert "mIoU 0.5000, mean Dice 0.6667, pixel accuracy 0.9000, 3 images of val" in out
