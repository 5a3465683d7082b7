"""The grid of a sweep: which settings are fixed, which have several values, and every combination.

A setting's values are typed with commas. Where a value has commas itself, as in `scale=0.5,2`,
semicolons separate values; they do so for any setting.
"""

import itertools
from collections.abc import Mapping

from model.errors import InputError
from model.recipe import Recipe
from model.recipes import named

Settings = dict[str, str]  # a recipe's setting to its value, both as typed

MOST = 99  # trials; each is trained to its end
_WITH_COMMAS = {
    name for name, field in Recipe.model_fields.items() if isinstance(field.default, tuple)
}


def split(overrides: Mapping[str, str]) -> tuple[Settings, dict[str, list[str]]]:
    """What was typed as KEY=VALUES: the settings with one value, and those with several."""
    values = {key: _values(key, typed) for key, typed in overrides.items()}
    fixed = {key: several[0] for key, several in values.items() if len(several) == 1}
    return fixed, {key: several for key, several in values.items() if len(several) > 1}


def combinations(
    recipe: str, fixed: Mapping[str, object], grid: Mapping[str, list[str]]
) -> list[Settings]:
    """Every combination of the grid, the last setting changing first.

    Raises InputError for one that the recipe does not take, two that are the same, and a grid of
    none, one or too many.
    """
    found = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if len(found) < 2:
        raise InputError(
            "There is nothing to compare: give a setting several values, like --set lr=1e-3,3e-4."
        )
    if len(found) > MOST:
        raise InputError(
            f"These are {len(found):,} combinations, and a sweep trains {MOST} at the most; give "
            "fewer values."
        )
    seen: list[tuple[Recipe, Settings]] = []
    for settings in found:
        made = named(recipe).override({**fixed, **settings})
        for other, its in seen:
            if other == made:
                raise InputError(
                    f"{in_words(its)} and {in_words(settings)} are the same; give each value once."
                )
        seen.append((made, settings))
    return found


def in_words(settings: Mapping[str, str]) -> str:
    """As it was typed: `lr=3e-4 batch_size=8`."""
    return " ".join(f"{key}={value}" for key, value in settings.items())


def _values(key: str, typed: str) -> list[str]:
    separator = ";" if ";" in typed or key in _WITH_COMMAS else ","
    values = [value.strip() for value in typed.split(separator)]
    if len(values) > 1 and not all(values):
        raise InputError(f"--set {key}={typed} has an empty value; write {key}=A{separator}B.")
    return values
