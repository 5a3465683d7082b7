"""What a checkpoint says it was made from, held against what is here."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, computed_field

from model.errors import InputError
from model.recipe import GATES, Recipe, as_typed

if TYPE_CHECKING:
    from model.checkpoint import Description
    from model.provenance import Provenance

_NONE = "–"
_RUN, _HASH = re.compile(r"[\w-]{1,40}", re.ASCII), re.compile(r"[0-9a-f]{32,64}")
_NO_MATTER = {"name", "summary", *GATES}  # of a recipe: they decide nothing of what is learned


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint.pt on this computer, whoever wrote it."""

    path: Path
    description: "Description"
    weights_digest: str  # recomputed

    @classmethod
    def read(cls, path: Path) -> "CheckpointFile":
        """Read it whole. InputError where it is none, or names what cannot be in a store."""
        from model import checkpoint

        description, state = checkpoint.load(path)
        keys = (description.dataset_key, *description.archives)
        if not _RUN.fullmatch(description.run_id) or not all(map(_HASH.fullmatch, keys)):
            raise InputError(
                f"{path} does not say which run and which archives it comes from; take the "
                "checkpoint of a run."
            )
        try:
            # What is larger than the file that holds it would fill the memory.
            if sum(weight.nbytes for weight in state["net"].values()) > path.stat().st_size:
                raise ValueError
            digest = checkpoint.weights_digest(state["net"])
        except (AttributeError, TypeError, ValueError, RuntimeError):
            raise InputError(f"{path} is not a whole checkpoint of voc-train.") from None
        return cls(path, description, digest)

    @cached_property
    def sha256(self) -> str:
        """Of the file."""
        from model.checkpoint import file_sha256

        return file_sha256(self.path)


class Compared(BaseModel):
    """One thing that decides the weights: as it was when the checkpoint was made, and as it is."""

    model_config = ConfigDict(frozen=True)

    what: str
    made: str
    here: str
    hardware: bool = False  # on which the same training rounds differently

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated property
    @property
    def same(self) -> bool:
        """Whether it is what it was."""
        return self.made == self.here

    def in_words(self) -> str:
        """Both sides of a difference."""
        return f"{self.what} {self.made}, here {self.here}"


def compare_archives(made: Iterable[str], here: Iterable[str]) -> list[Compared]:
    """Archives by the sha256 of their tars."""
    made, here = {*made}, {*here}
    return [
        Compared(
            what="archive",
            made=sha256 if sha256 in made else _NONE,
            here=sha256 if sha256 in here else _NONE,
        )
        for sha256 in sorted(made | here)
    ]


def compare_recipes(made: Recipe, here: Recipe) -> list[Compared]:
    """Every setting that decides what is learned, the seed among them."""
    names = [name for name in Recipe.model_fields if name not in _NO_MATTER]
    return [
        Compared(
            what=f"recipe {name}",
            made=as_typed(getattr(made, name)),
            here=as_typed(getattr(here, name)),
        )
        for name in names
    ]


def compare_computers(made: "Provenance", here: "Provenance") -> list[Compared]:
    """Code, libraries and hardware; no difference are threads and ranks, which a run is told."""
    rows = [
        Compared(what="code", made=made.code, here=here.code),
        Compared(what="python", made=made.python, here=here.python),
        *_compare_all("library", made.libraries, here.libraries),
    ]
    rows += [
        Compared(what=what, made=getattr(made, what), here=getattr(here, what), hardware=True)
        for what in ("processor", "device", "precision")
    ]
    told = {"threads": str(made.threads), "ranks": str(made.ranks)}
    return [*rows, *(Compared(what=what, made=said, here=said) for what, said in told.items())]


def _compare_all(what: str, made: Mapping[str, Any], here: Mapping[str, Any]) -> list[Compared]:
    return [
        Compared(
            what=f"{what} {name}",
            made=str(made.get(name, _NONE)),
            here=str(here.get(name, _NONE)),
        )
        for name in sorted(made.keys() | here.keys())
    ]
