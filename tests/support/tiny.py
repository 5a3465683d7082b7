"""A very small job for the real trainer: coloured squares, a narrow net, a second or two."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model import checkpoint
from model.images import Image, encode_mask, encode_png, sample_digest
from model.indexed_tar import TarWriter
from model.loader import Batch
from model.manifest import VOID, Manifest, Sample, Shard
from model.recipe import Recipe
from model.train import main

CLASSES = ("background", "red", "green")
COLOURS = np.array([(70, 70, 70), (220, 60, 40), (50, 210, 60)], np.uint8)  # RGB, by class

RECIPE = Recipe(
    name="test",
    summary="for tests",
    width=2,
    depth=1,
    lr=0.02,
    epochs=2,
    batch_size=4,
    image_size=16,
    rotate=15.0,
    precision="fp32",
)


def labelled(position: int, height: int, width: int) -> tuple[Image, Image]:
    """A photo, uint8 [H, W, 3], and its mask, uint8 [H, W]: a rectangle in the class's colour."""
    random = np.random.default_rng(position)
    mask = np.zeros((height, width), np.uint8)
    top, left = random.integers(0, height // 2 + 1), random.integers(0, width // 2 + 1)
    mask[top : top + height // 2 + 1, left : left + width // 2 + 1] = 1 + position % 2
    photo = COLOURS[mask] + random.integers(0, 30, (height, width, 1), np.uint8)
    mask[0] = VOID
    return photo, mask


def batch_of(pairs: Sequence[tuple[Image, Image]]) -> Batch:
    """Photos and masks of one size, as they are."""
    photos, masks = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
    return Batch(torch.from_numpy(photos).permute(0, 3, 1, 2), torch.from_numpy(masks))


def write_dataset(
    folder: Path,
    splits: dict[str, list[tuple[Image, Image]]] | None = None,
    classes: tuple[str, ...] = CLASSES,
    a_shard: int = 1000,
) -> Manifest:
    """A whole dataset; by default 12 training and 4 validation photos of odd and even sizes.

    A shard has `a_shard` samples.
    """
    if splits is None:
        splits = {
            "train": [labelled(i, 20 + i % 5, 24 - i % 4) for i in range(12)],
            "val": [labelled(100 + i, 17 + i, 26 - i) for i in range(4)],
        }
    (folder / "shards").mkdir(parents=True)
    digest, lines = hashlib.sha256(), []
    shards: list[TarWriter] = []
    for split, pairs in splits.items():
        for number, (photo, mask) in enumerate(pairs):
            if len(lines) % a_shard == 0:
                shards.append(TarWriter(folder / "shards" / f"{len(shards):05d}.tar"))
            shard = shards[-1]
            name = f"{split}_{number:03d}"
            image = shard.add(f"{name}.png", encode_png(photo))
            truth = shard.add(f"{name}.mask.png", encode_mask(mask))
            digest.update(sample_digest(name, photo, mask))
            sample = Sample(
                id=name,
                split=split,
                shard=len(shards) - 1,
                photo=(image.offset, image.size),
                mask=(truth.offset, truth.size),
                height=mask.shape[0],
                width=mask.shape[1],
            )
            lines.append(sample.model_dump_json() + "\n")
    for shard in shards:
        shard.close()
    index = "".join(lines)
    (folder / "index.jsonl").write_text(index)
    manifest = Manifest(
        key=digest.hexdigest(),
        digest=digest.hexdigest(),
        classes=classes,
        counts={split: len(pairs) for split, pairs in splits.items()},
        pixels={split: _count(pairs, len(classes)) for split, pairs in splits.items()},
        archives=("0" * 64,),
        max_side=None,
        shards=tuple(Shard(name=s.path.name, size=s.size, sha256=s.sha256) for s in shards),
        index_sha256=hashlib.sha256(index.encode()).hexdigest(),
        left_out={},
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return manifest


def write_job(
    folder: Path,
    splits: dict[str, list[tuple[Image, Image]]] | None = None,
    **settings: Any,
) -> Path:
    """A job's folder with that dataset and `RECIPE`, `settings` changed."""
    write_dataset(folder / "dataset", splits)
    write_recipe(folder, **settings)
    return folder


def write_recipe(job: Path, **settings: Any) -> Recipe:
    """Put `RECIPE` with `settings` changed into a job's folder."""
    recipe = RECIPE.override(settings)
    (job / "recipe.json").write_text(recipe.model_dump_json())
    return recipe


def journal(job: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The records that training wrote, or those of one kind."""
    lines = (job / "out" / "metrics.jsonl").read_text().splitlines()
    records: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return [record for record in records if kind in (None, record["kind"])]


def steps(job: Path) -> list[int]:
    """The steps that training recorded, in its order."""
    return [record["step"] for record in journal(job, "step")]


def weights_digest(job: Path) -> str:
    """The weights digest of a job's newest checkpoint."""
    folder = checkpoint.newest(job / "out" / "checkpoints")
    assert folder
    manifest = checkpoint.verified(folder)
    assert manifest
    return manifest.weights_digest


def run_main(monkeypatch: pytest.MonkeyPatch, job: Path, *options: str) -> int:
    """`python -m model.train JOB`, on one thread, in this process: its exit code."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setattr(sys, "argv", ["model.train", str(job), "--threads", "1", *options])
    try:
        return main()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def start_trainer(
    job: Path, *options: str, env: dict[str, str] | None = None
) -> "subprocess.Popen[str]":
    """`python -m model.train JOB`, on one thread, as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "model.train", str(job), "--threads", "1", *options],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _count(pairs: list[tuple[Image, Image]], classes: int) -> tuple[int, ...]:
    counts = sum(np.bincount(mask.ravel(), minlength=256) for _, mask in pairs)
    counts = np.asarray(counts)
    return (*(int(c) for c in counts[:classes]), int(counts[VOID]))
