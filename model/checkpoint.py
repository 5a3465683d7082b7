"""Checkpoints: self-describing, atomic, counted only when verified.

A checkpoint is a folder `<step>/` with `checkpoint.pt` and `manifest.json`. The blob is written
first and the manifest, which holds the blob's sha256, last; a folder without a manifest that fits
is no checkpoint. Loading one never executes code (`weights_only`).

Beside them are, for the time of a save, the hidden `.<step>.part`, being written, and
`.<step>.old`, which it replaces. `recover` sees to what a kill leaves of them.
"""

import hashlib
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from torch import Tensor

from model.errors import InputError
from model.manifest import MOST_CLASSES
from model.provenance import Provenance
from model.recipe import Recipe

BLOB, MANIFEST = "checkpoint.pt", "manifest.json"
FORMAT = 1
_PART, _OLD = ".part", ".old"
_FOREIGN = "foreign"  # the type of the error for what no version of ours writes

_Place = TypeVar("_Place")


class Description(BaseModel):
    """Where a checkpoint comes from; stands in the checkpoint and in its manifest."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    run_id: str
    wandb_id: str
    recipe: Recipe
    classes: tuple[str, ...]
    class_weights: tuple[float, ...] | None = None  # of the loss
    dataset_key: str
    dataset_digest: str
    archives: tuple[str, ...]
    max_side: int | None = Field(None, gt=0)  # to which its photos were shrunk; None: never
    provenance: Provenance
    step: int
    epoch: int
    steps_per_epoch: int
    miou: float | None  # on the whole validation set; None between two validations
    iou: dict[str, float | None]  # a class that occurs nowhere has none

    @field_validator("classes")
    @classmethod
    def _usable(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        """They are shown on a terminal, which obeys what is not printable."""
        if not all(name.isprintable() for name in classes):
            raise PydanticCustomError(_FOREIGN, "class names must be printable")
        if not 2 <= len(set(classes)) == len(classes) <= MOST_CLASSES:
            raise PydanticCustomError(_FOREIGN, "classes must be several, and differ")
        return classes

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        """As the recipe wants them: one for each class."""
        weights, wanted = self.class_weights, self.recipe.class_weights != "none"
        if (weights is not None) != wanted or (
            weights is not None
            and (len(weights) != len(self.classes) or not all(0 <= w < math.inf for w in weights))
        ):
            raise PydanticCustomError(_FOREIGN, "class weights must fit classes and recipe")
        return self


class CheckpointManifest(Description):
    """The description, and what the blob must hash to."""

    size: int
    sha256: str
    weights_digest: str


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """sha256 over the sorted (name, dtype, shape, raw bytes): what "the same checkpoint" means."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name}\n{tensor.dtype}\n{tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, streamed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save(folder: Path, description: Description, state: Mapping[str, Any]) -> CheckpointManifest:
    """Write `folder/<step>/`, whole or not at all; `state["net"]` holds the weights.

    Raises OSError where it cannot be written, and leaves the room that it had taken.
    """
    final = folder / f"{description.step:08d}"
    part = folder / f".{final.name}{_PART}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        manifest = _write(part, description, state)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        raise
    _put_in_place(part, final)
    return manifest


def _write(part: Path, description: Description, state: Mapping[str, Any]) -> CheckpointManifest:
    """Write blob and manifest into the folder `part`."""
    blob = part / BLOB
    with blob.open("wb") as file:
        try:
            torch.save({"description": description.model_dump_json(), **state}, file)
        except RuntimeError as error:
            # Closing its archive after a failed write, torch stumbles again and says only that.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        file.flush()
        os.fsync(file.fileno())
    manifest = CheckpointManifest(
        **dict(description),
        size=blob.stat().st_size,
        sha256=file_sha256(blob),
        weights_digest=weights_digest(state["net"]),
    )
    with (part / MANIFEST).open("w") as file:
        file.write(manifest.model_dump_json(indent=1))
        file.flush()
        os.fsync(file.fileno())
    return manifest


def _put_in_place(part: Path, final: Path) -> None:
    """Give a whole `part` its name; at every moment one of the two is whole."""
    old = final.with_name(f".{final.name}{_OLD}")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)  # deleting takes time, in which whoever looks here would find a half
    part.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def recover(folder: Path) -> None:
    """Finish the save that a kill interrupted, where the blob had been written; else forget it.

    What does not verify goes as well: were a damaged one taken for the last or the best, good ones
    would be deleted in its favour. Only for who is going to write there: to a save in progress it
    is the kill.
    """
    for part in list(folder.glob(f".*{_PART}")):
        if verified(part):
            _put_in_place(part, folder / part.stem.removeprefix("."))
    for old in list(folder.glob(f".*{_OLD}")):
        final = folder / old.stem.removeprefix(".")
        if not final.exists() and verified(old):
            old.rename(final)
    for left in (*folder.glob(f".*{_PART}"), *folder.glob(f".*{_OLD}")):
        shutil.rmtree(left)
    for step in folder.glob("[0-9]*"):
        if not verified(step):
            shutil.rmtree(step)


def parse_manifest(data: bytes) -> CheckpointManifest | None:
    """A manifest from its bytes, or None where they are none of ours."""
    try:
        return CheckpointManifest.model_validate_json(data)
    except ValidationError:
        return None


def verified(folder: Path) -> CheckpointManifest | None:
    """The manifest of the checkpoint in `folder`, or None where blob and manifest do not fit."""
    try:
        manifest = parse_manifest((folder / MANIFEST).read_bytes())
        if manifest and file_sha256(folder / BLOB) == manifest.sha256:
            return manifest
    except OSError:
        pass
    return None


def load(path: Path) -> tuple[Description, dict[str, Any]]:
    """Read a checkpoint file: its description and its state, on the CPU.

    Raises InputError when the file is no checkpoint of ours, damaged, or of a newer version.
    """
    try:
        # A pipe would be waited for, and a device may have no end.
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise InputError(f"{path} is no file; name a {BLOB}.")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        description = Description.model_validate_json(state.pop("description"))
        state["net"]
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(
            f"There is no checkpoint {path}; `voc-train fetch RUN` brings a run's."
        ) from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; name the {BLOB} inside it.") from None
    except ValidationError as error:
        if any(problem["type"] == _FOREIGN for problem in error.errors()):
            raise InputError(f"{path} is not a whole checkpoint of voc-train.") from None
        raise InputError(
            f"{path} was written by another version of voc-train ({error.error_count()} fields "
            "differ); use that version, or train again."
        ) from None
    except Exception:  # on foreign bytes torch's unpickler raises whatever it stumbles over
        raise InputError(f"{path} is not a whole checkpoint of voc-train.") from None
    if description.format > FORMAT:
        raise InputError(f"{path} was written by a newer voc-train; update this one.")
    return description, state


def newest(folder: Path) -> Path | None:
    """The newest checkpoint in `folder` that verifies."""
    return next((step for step in reversed(_steps(folder)) if verified(step)), None)


def best_first(found: Mapping[_Place, CheckpointManifest]) -> list[_Place]:
    """Where the scored checkpoints lie, the one with the highest mIoU first, the newest of equals.

    A checkpoint that was saved between two validations has no score, and is never the best.
    """
    scores = {place: (m.miou, m.step) for place, m in found.items() if m.miou is not None}
    return sorted(scores, key=scores.__getitem__, reverse=True)


def best(folder: Path) -> Path | None:
    """The best checkpoint in `folder` that verifies."""
    return next((step for step in best_first(_manifests(folder)) if verified(step)), None)


def keep_best_and_last(folder: Path, also: int | None = None) -> None:
    """Delete every checkpoint but the best and the last, and that of the step `also`."""
    found = _manifests(folder)
    kept = {*best_first(found)[:1], *sorted(found)[-1:]}
    kept |= {step for step, manifest in found.items() if manifest.step == also}
    for step in found.keys() - kept:
        shutil.rmtree(step)


def _manifests(folder: Path) -> dict[Path, CheckpointManifest]:
    """The readable manifests, by folder; their blobs are not looked at."""
    read = {step: parse_manifest((step / MANIFEST).read_bytes()) for step in _steps(folder)}
    return {step: manifest for step, manifest in read.items() if manifest}


def _steps(folder: Path) -> list[Path]:
    return sorted(step.parent for step in folder.glob(f"[0-9]*/{MANIFEST}"))
