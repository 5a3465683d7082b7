"""Pretrained weights: from torch's cache, or fetched once, and always the file that its name says.

They are kept where torchvision keeps them, in `checkpoints` below `torch.hub.get_dir()`. Where the
network does not reach its server, VOC_TRAIN_WEIGHTS_URL names a folder or URL that has the files
under their usual names.
"""

import hashlib
import os
import pickle
import re
import time
import uuid
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import urlsplit
from urllib.request import urlopen

import torch
from torch import nn

from model.errors import InputError, disk_problem

MIRROR = "VOC_TRAIN_WEIGHTS_URL"
_TIMEOUT = 60.0  # seconds that a server may be silent
_LONGEST = 3600.0  # seconds that it may take in all
_LARGEST = 2 << 30  # bytes; VGG16, the largest of ours, has 0.55 GB


class Weights(Protocol):
    """What we ask of a member of torchvision's weight enumerations."""

    @property
    def url(self) -> str:
        """Where the file is; its name ends with the begin of its sha256: resnet34-b627a593.pth."""


def load_pretrained(weights: Weights, module: nn.Module, leave_out: str) -> None:
    """Give `module` these weights, all of them, except those whose names begin with `leave_out`.

    Raises InputError where the file cannot be had, is not what its name says, or does not fit.
    """
    path = _obtained(weights.url)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        module.load_state_dict(
            {key: value for key, value in state.items() if not key.startswith(leave_out)}
        )
    except (RuntimeError, pickle.UnpicklingError, AttributeError, TypeError, EOFError):
        raise InputError(
            f"{path} does not hold weights that fit; use --set pretrained=false."
        ) from None


def _obtained(url: str) -> Path:
    """The file of that URL in the cache, verified; fetched where it is not there."""
    name = url.rpartition("/")[2]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / name
    if path.exists():
        if not path.is_file() or not _is_what_it_says(path, name):
            raise InputError(
                f"{path} is damaged: its sha256 is not the one in its name. Delete it, and it "
                "will be fetched again."
            )
        return path
    source = _mirrored(name) or url
    part = folder / f"{name}.{uuid.uuid4().hex}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        print(f"fetching {source}", flush=True)
        with urlopen(source, timeout=_TIMEOUT) as answer, part.open("xb") as file:
            _copy(answer, file)
        if not _is_what_it_says(part, name):
            raise InputError(_cannot_be_had(name, folder, source, "its sha256 is another"))
        part.replace(path)
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, InputError):
            raise
        problem = isinstance(error, OSError) and disk_problem(error, folder)
        raise InputError(problem or _cannot_be_had(name, folder, source, str(error))) from None
    finally:
        part.unlink(missing_ok=True)
    return path


def _copy(answer: BinaryIO, file: BinaryIO) -> None:
    """Take what comes, but not without end."""
    until, size = time.monotonic() + _LONGEST, 0
    while piece := answer.read(1 << 20):
        size += file.write(piece)
        if size > _LARGEST or time.monotonic() > until:
            raise OSError("what it sends does not end")


def _mirrored(name: str) -> str | None:
    """The URL of that file at the mirror, or None where there is no mirror."""
    base = os.environ.get(MIRROR, "")
    if not base:
        return None
    try:
        parts = urlsplit(base)
        if not parts.scheme:
            return (Path(base).expanduser().absolute() / name).as_uri()
    except (ValueError, RuntimeError):  # no URL, or the home of nobody
        raise InputError(f"{MIRROR} is neither a folder nor a URL.") from None
    # Errors and logs repeat the URL, so it must hold no password or token.
    if parts.scheme not in ("http", "https", "file") or "@" in parts.netloc or parts.query:
        raise InputError(
            f"{MIRROR} must be a folder, or begin with http://, https:// or file://, without user "
            "name, password or query."
        )
    return f"{base.rstrip('/')}/{name}"


def _is_what_it_says(path: Path, name: str) -> bool:
    """Whether the file's sha256 begins as its name ends."""
    said = re.search(r"-([0-9a-f]{8,64})\.\w+$", name)
    if not said:
        raise ValueError(f"the name {name} has no checksum")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().startswith(said[1])


def _cannot_be_had(name: str, folder: Path, source: str, reason: str) -> str:
    return (
        f"The pretrained weights {name} are neither in {folder} nor at {source} ({reason}). Put "
        f"the file into that folder, set {MIRROR} to a folder or URL that has it, or train from "
        "scratch with --set pretrained=false."
    )
