"""The weights digest: the same by the same weights, and by nothing else."""

import hashlib
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from checkpoints import WEIGHTS
from model import checkpoint


def test_the_digest_ignores_order_file_and_memory_layout(tmp_path: Path) -> None:
    backwards = OrderedDict(reversed(WEIGHTS.items()))
    backwards["a.weight"] = WEIGHTS["a.weight"].T.contiguous().T
    assert not backwards["a.weight"].is_contiguous()
    digest = checkpoint.weights_digest(WEIGHTS)
    assert checkpoint.weights_digest(backwards) == digest
    torch.save(backwards, tmp_path / "another name")
    assert checkpoint.weights_digest(torch.load(tmp_path / "another name")) == digest


def test_the_digest_is_the_documented_one() -> None:
    digest = hashlib.sha256()
    for name, dtype, shape in (
        ("a.weight", "torch.float32", "(3, 4)"),
        ("b.bias", "torch.bfloat16", "(3,)"),
        ("c.count", "torch.int64", "()"),
    ):
        digest.update(f"{name}\n{dtype}\n{shape}\n".encode())
        digest.update(bytes(WEIGHTS[name].untyped_storage()))
    assert checkpoint.weights_digest(WEIGHTS) == digest.hexdigest()


def flipped_bit() -> dict[str, torch.Tensor]:
    weight = WEIGHTS["a.weight"].clone()
    weight.view(torch.uint8)[0, 0] ^= 1
    return WEIGHTS | {"a.weight": weight}


@pytest.mark.parametrize(
    "other",
    [
        flipped_bit(),
        {("d" if k == "b.bias" else k): v for k, v in WEIGHTS.items()},
        WEIGHTS | {"a.weight": WEIGHTS["a.weight"].reshape(4, 3)},
        WEIGHTS | {"b.bias": WEIGHTS["b.bias"].view(torch.int16)},
        {k: v for k, v in WEIGHTS.items() if k != "c.count"},
        WEIGHTS | {"e": torch.empty(0)},
    ],
    ids=["bit", "name", "shape", "dtype", "fewer", "an empty one more"],
)
def test_the_digest_sees_every_difference(other: dict[str, torch.Tensor]) -> None:
    assert checkpoint.weights_digest(other) != checkpoint.weights_digest(WEIGHTS)
