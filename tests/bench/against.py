"""Our ResNet-U-Net against another net: equal data, steps and image size.

    python tests/bench/against.py RIVAL --archive voc2012-subset.tar [--side 64] [--epochs 10]

RIVAL is `smp`, the same net of segmentation_models_pytorch, or a recipe of ours, such as voc-unet;
`--set` changes that recipe's settings. All are trained from scratch by the loop of `model/train.py`
with the same settings; only the net differs, and what it starts from. Prints the best mIoU on the
validation photos, at their own resolution, for every seed, and the means with their spread.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import segmentation_models_pytorch as smp
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from infra.stores import Store
from model.device import default_threads
from model.layers import pad_to_multiple
from model.nets import build_net
from model.provenance import processor
from model.recipe import Recipe
from model.recipes import named
from model.train import train
from pipeline.dataset import dataset_prefix
from pipeline.parameters import VOC_CLASSES
from pipeline.stages.build_dataset import build_dataset
from pipeline.stages.extract import extract
from pipeline.stages.separate import separate


def smp_net(_recipe: Recipe, classes: int) -> nn.Module:
    """smp's for photos of any size: padded as ours are."""
    return _Padded(smp.Unet("resnet34", encoder_weights=None, classes=classes))


class _Padded(nn.Module):
    stride = 32

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[-2:]
        logits: torch.Tensor = self.net(pad_to_multiple(images, 32))
        return logits[..., :height, :width]


def best_miou(
    dataset: Path, recipe: Recipe, build: Callable[[Recipe, int], nn.Module], workers: int
) -> tuple[float, float]:
    """Train once; the best mIoU and the seconds it took."""
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder)
        (job / "dataset").symlink_to(dataset)
        (job / "recipe.json").write_text(recipe.model_dump_json())
        began = time.perf_counter()
        with patch("model.state.build_net", build):
            train(job, run_id="bench", workers=workers)
        seconds = time.perf_counter() - began
        records = map(json.loads, (job / "out" / "metrics.jsonl").read_text().splitlines())
        return max(r["miou"] for r in records if r["kind"] == "epoch"), seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rival", help="smp, or the name of a recipe")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE of that recipe")
    parser.add_argument("--archive", required=True, help="a VOC-style tar")
    parser.add_argument("--side", type=int, default=64, help="training crop, pixels")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    if args.seeds < 2:
        parser.error("a spread needs two seeds")
    if args.rival == "smp" and args.set:
        parser.error("smp's net is no recipe: leave out --set")
    torch.set_num_threads(default_threads())
    equal = {"image_size": args.side, "epochs": args.epochs, "batch_size": 8, "scale": (0.8, 1.25)}
    ours = named("voc-resnet-unet").override(equal)
    if args.rival == "smp":
        rival, build_rival = ours, smp_net
    else:
        settings = dict(setting.split("=", 1) for setting in args.set)
        rival, build_rival = named(args.rival).override(equal | settings), build_net
    contestants = {"ours": (ours, build_net), args.rival: (rival, build_rival)}
    table = Table("seed", box=None, pad_edge=False)
    for name in contestants:
        table.add_column(name)
        table.add_column("seconds")
    scores: dict[str, list[float]] = {name: [] for name in contestants}
    with tempfile.TemporaryDirectory() as folder:
        store, spool = Store.open(folder), Path(folder) / "spool"
        archive, _ = extract(args.archive, store, spool)
        separation, _ = separate([archive], store, spool)
        built, _ = build_dataset(
            separation,
            [archive],
            store,
            spool,
            classes=VOC_CLASSES,
            max_side=args.side * 3 // 2,
        )
        dataset = Path(folder) / dataset_prefix(built.key)
        for seed in range(args.seeds):
            row = [str(seed)]
            for name, (recipe, build) in contestants.items():
                seeded = recipe.override({"seed": seed})
                score, seconds = best_miou(dataset, seeded, build, args.workers)
                scores[name].append(score)
                row += [f"{score:.4f}", f"{seconds:.0f}"]
            table.add_row(*row)
    mine, theirs = (statistics.mean(found) for found in scores.values())
    pooled = statistics.mean([statistics.variance(found) for found in scores.values()]) ** 0.5
    table.add_row("mean", f"{mine:.4f}", "", f"{theirs:.4f}", "")
    Console().print(table)
    print(f"pooled standard deviation {pooled:.4f}; difference {mine - theirs:+.4f}")
    print(f"{args.side} px, {args.epochs} epochs, {processor()}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
