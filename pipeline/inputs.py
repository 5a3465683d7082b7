"""What a training is made from, and what has changed since another one."""

import json
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict

from model.counted import counted
from model.recipe import Recipe, as_typed

if TYPE_CHECKING:
    from model.manifest import Manifest


class Inputs(BaseModel):
    """All that decides what is learned, as it is known before anything is trained or rented."""

    model_config = ConfigDict(frozen=True)

    archives: tuple[str, ...]  # sha256 of each tar, sorted
    dataset: str  # digest of its content
    recipe: dict[str, Any]  # every setting, but what is only asked of the result
    code: str  # version of model/
    libraries: dict[str, str]  # name to the version that is pinned for the machine

    @classmethod
    def of(cls, dataset: "Manifest", recipe: Recipe) -> Self:
        """Of a training of `recipe` on `dataset` by the code and the libraries that are here."""
        # A machine that only prepares has neither what these import, nor any need of it.
        from infra.stackscripts import TRAINER, requirements
        from model.provenance import code_version

        pins = (pin.partition("==") for pin in requirements(TRAINER).split())
        return cls(
            archives=tuple(sorted(dataset.archives)),
            dataset=dataset.digest,
            recipe=recipe.decisive(),
            code=code_version(),
            libraries={name: version for name, _, version in pins},
        )

    def changes_since(self, earlier: "Inputs") -> tuple[str, ...]:
        """What is another now than it was `earlier`, in words; nothing where all is the same."""
        changes = []
        if self.archives != earlier.archives:
            new = len({*self.archives} - {*earlier.archives})
            gone = len({*earlier.archives} - {*self.archives})
            changes.append(f"archives: {new} new, {gone} no longer there")
        if self.dataset != earlier.dataset:
            changes.append(f"dataset: was {earlier.dataset[:12]}, is {self.dataset[:12]}")
        changes += _between("recipe", earlier.recipe, self.recipe)
        if self.code != earlier.code:
            changes.append(f"code: was {earlier.code}, is {self.code}")
        changes += _between("library", earlier.libraries, self.libraries)
        return tuple(changes)

    def in_words(self) -> str:
        """What is compared, in short."""
        return (
            f"{counted(len(self.archives), 'archive')}, dataset {self.dataset[:12]}, "
            f"{len(self.recipe)} settings of the recipe, code {self.code}, "
            f"{len(self.libraries)} libraries"
        )


def _between(what: str, earlier: dict[str, Any], here: dict[str, Any]) -> list[str]:
    return [
        f"{what}: {key} was {_shown(earlier, key)}, is {_shown(here, key)}"
        for key in sorted(earlier.keys() | here.keys())
        if json.dumps(earlier.get(key)) != json.dumps(here.get(key))
    ]


def _shown(values: dict[str, Any], key: str) -> str:
    value = values.get(key)
    return as_typed(tuple(value) if isinstance(value, list) else value)
