"""Seconds, images a second and peak memory of every stage, each in a process of its own.

    python tests/bench/stages.py [--archive TAR] [--recipe voc-segmentnet] [--steps 10]

Without an archive, a generated one of 1,000 pairs. Training runs at full width for some steps, so
that the figure is that of the real net; `tiny` is the dry run's.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from infra.stores import Store
from model.manifest import Manifest
from model.recipes import named
from pipeline.dataset import dataset_prefix
from pipeline.parameters import VOC_CLASSES
from pipeline.sample_archive import write_sample_archive
from pipeline.stages.build_dataset import build_dataset
from pipeline.stages.extract import extract
from pipeline.stages.separate import separate


@dataclass
class Figures:
    """What one process measured of its own work; peak memory in MB."""

    seconds: float
    images: int
    peak: float = 0.0


def timed(work: Callable[[], int]) -> Figures:
    """Time `work`, which returns how many images it dealt with."""
    began = time.perf_counter()
    images = work()
    return Figures(time.perf_counter() - began, images)


def prepare(upto: str, archive: str, folder: Path) -> Figures:
    """The stage `upto`; those before it are there already, from the processes before."""
    store, spool = Store.open(str(folder / "store")), folder / "spool"
    if upto == "extract":
        return timed(lambda: extract(archive, store, spool)[0].members)
    found, _ = extract(archive, store, spool)
    if upto == "separate":
        return timed(lambda: len(separate([found], store, spool)[0].pairs))
    separation, _ = separate([found], store, spool)

    def build() -> int:
        made, _ = build_dataset(separation, [found], store, spool, classes=VOC_CLASSES)
        return sum(made.counts.values())

    return timed(build)


def dataset_in(folder: Path) -> Path:
    """The one dataset that was built."""
    (manifest,) = (folder / "store").glob("datasets/*/manifest.json")
    key = Manifest.model_validate_json(manifest.read_bytes()).key
    return folder / "store" / dataset_prefix(key)


def load(recipe_name: str, workers: int, folder: Path) -> Figures:
    """The loader alone, one epoch: what training could have at most."""
    from model.dataset import Dataset
    from model.loader import training_batches
    from model.order import BatchOrder

    recipe, data = named(recipe_name), Dataset(dataset_in(folder), "train")
    order = BatchOrder(recipe.seed, len(data), recipe.batch_size, epochs=1)
    batches = training_batches(data, recipe, order, workers)
    return timed(lambda: sum(len(batch.images) for batch in batches))


def train(recipe_name: str, steps: int, folder: Path) -> Figures:
    """Training steps on batches that are there already, after two to warm up."""
    import torch

    from model.device import autocast, default_threads, pick_device, pick_precision
    from model.loader import normalise
    from model.losses import build_loss
    from model.nets import build_net
    from model.optim import build_optimiser

    torch.set_num_threads(default_threads())
    recipe, where = named(recipe_name), pick_device()
    dtype = pick_precision(recipe.precision, where)
    net = build_net(recipe, len(VOC_CLASSES)).to(where).to(memory_format=torch.channels_last)
    optimiser, loss_of = build_optimiser(recipe, net), build_loss(recipe)
    size = recipe.image_size
    images = torch.randint(0, 256, (recipe.batch_size, 3, *size), dtype=torch.uint8)
    targets = torch.randint(0, len(VOC_CLASSES), (recipe.batch_size, *size)).to(where)

    def step() -> None:
        with autocast(where, dtype):
            seen = normalise(images.to(where), recipe.normalise)
            logits = net(seen.contiguous(memory_format=torch.channels_last))
        optimiser.zero_grad(set_to_none=True)
        loss_of(logits, targets).backward()
        optimiser.step()

    def run() -> int:
        for _ in range(steps):
            step()
        if where.type == "cuda":
            torch.cuda.synchronize()
        return steps * recipe.batch_size

    step()
    step()
    return timed(run)


STAGES: dict[str, Callable[[argparse.Namespace], Figures]] = {
    "extract": lambda a: prepare("extract", a.archive, a.folder),
    "separate": lambda a: prepare("separate", a.archive, a.folder),
    "build-dataset": lambda a: prepare("build-dataset", a.archive, a.folder),
    "load, 0 workers": lambda a: load(a.recipe, 0, a.folder),
    "load, 2 workers": lambda a: load(a.recipe, 2, a.folder),
    "train, in full": lambda a: train(a.recipe, a.steps, a.folder),
    "train, tiny": lambda a: train("tiny", 10 * a.steps, a.folder),
}


def main() -> None:
    """Run every stage in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--archive", default="", help="a devkit archive of VOC's classes")
    parser.add_argument("--recipe", default="voc-segmentnet")
    parser.add_argument("--steps", type=int, default=3, help="training steps in full width")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        figures = STAGES[args.stage](args)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        figures.peak = peak / (1e6 if sys.platform == "darwin" else 1e3)
        print(json.dumps(asdict(figures)))
        return
    table = Table("stage", "seconds", "images/s", "peak MB", box=None, pad_edge=False)
    with tempfile.TemporaryDirectory() as folder:
        if not args.archive:
            args.archive = str(Path(folder) / "shapes.tar")
            write_sample_archive(Path(args.archive), train=900, val=100, size=320)
        for stage in STAGES:
            command = [sys.executable, __file__, "--stage", stage, "--archive", args.archive]
            command += ["--folder", folder, "--recipe", args.recipe, "--steps", str(args.steps)]
            said = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
            figures = Figures(**json.loads(said.splitlines()[-1]))
            rate = figures.images / figures.seconds
            table.add_row(stage, f"{figures.seconds:.2f}", f"{rate:,.0f}", f"{figures.peak:,.0f}")
    Console().print(table)
    print(f"{os.cpu_count()} cores; extract counts members of the archive")


if __name__ == "__main__":
    main()
