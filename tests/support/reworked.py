"""A checkpoint's file with something else in it, as somebody might write it."""

import json
from pathlib import Path
from typing import Any

import torch


def reworked(checkpoint: Path, copy: Path, *, net: Any = None, **said: Any) -> Path:
    """Write `checkpoint` to `copy` with other weights, or a description that says otherwise.

    `provenance__code` is a member of a member.
    """
    state = torch.load(checkpoint, weights_only=True)
    description = json.loads(state["description"])
    for name, value in said.items():
        *path, last = name.split("__")
        part = description
        for step in path:
            part = part[step]
        part[last] = value
    state["description"] = json.dumps(description)
    if net is not None:
        state["net"] = net
    copy.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, copy)
    return copy


def other_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Its weights, of which the first are others."""
    net: dict[str, torch.Tensor] = torch.load(checkpoint, weights_only=True)["net"]
    first = next(iter(net))
    return net | {first: net[first] + 1}
