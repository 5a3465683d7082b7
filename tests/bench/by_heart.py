"""Every recipe at its full width learns four photos by heart: best mIoU, parameters, seconds.

    PYTHONPATH=tests/support python tests/bench/by_heart.py [--side 64] [--steps 300] [RECIPE …]

Real photos where they are, else generated ones. The recipe's own are net, loss, optimiser and
schedule; rate and batch are the same for all, and nothing is left to chance, so that a net that can
learn at all gets above 0.95.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from model.device import default_threads
from model.manifest import VOID
from model.nets import build_net
from model.provenance import processor
from model.recipe import Recipe
from model.recipes import RECIPES
from model.train import train
from narrow import still
from photos import archive_for, four
from tiny import write_dataset


def learned(recipe: Recipe, side: int) -> tuple[float, int, float]:
    """Best mIoU on the four photos, parameters of the net, and seconds."""
    photos = four(recipe.name, side)
    classes = tuple(map(str, range(1 + max(int(m[m != VOID].max()) for _, m in photos))))
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder)
        write_dataset(job / "dataset", {"train": photos * 10, "val": photos}, classes)
        (job / "recipe.json").write_text(recipe.model_dump_json())
        began = time.perf_counter()
        train(job, run_id="bench")
        seconds = time.perf_counter() - began
        records = map(json.loads, (job / "out" / "metrics.jsonl").read_text().splitlines())
        best = max(record["miou"] for record in records if record["kind"] == "epoch")
    net = build_net(recipe, len(classes))
    return best, sum(weight.numel() for weight in net.parameters()), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="*", default=list(RECIPES), metavar="RECIPE")
    parser.add_argument("--side", type=int, default=64, help="of the square photos, pixels")
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    torch.set_num_threads(default_threads())
    table = Table("recipe", "photos", "mIoU", "parameters", "seconds", box=None, pad_edge=False)
    for name in args.recipes:
        epochs = max(1, args.steps // 10)
        recipe = RECIPES[name].override(
            {
                **still(name),
                "image_size": args.side,
                "batch_size": 4,
                "min_miou": "none",
                "lr": 1e-3,
            }
            | {"epochs": epochs, "restart_epochs": epochs}
        )
        best, parameters, seconds = learned(recipe, args.side)
        kind = archive_for(name).name if archive_for(name).exists() else "generated"
        table.add_row(name, kind, f"{best:.3f}", f"{parameters / 1e6:.1f} M", f"{seconds:.0f}")
        print(f"{name}: {best:.3f} in {seconds:.0f} s", flush=True)
    Console().print(table)
    print(f"{args.side} px, {args.steps} steps, {processor()}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
