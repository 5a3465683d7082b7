"""The command line of training."""

import argparse
import os
from pathlib import Path

from model.pretrained import MIRROR
from model.wandb_process import WANDB_PATIENCE

SAVE_EVERY = 10.0  # minutes between two checkpoints at most


def options(description: str | None) -> argparse.Namespace:
    """What `python -m model.train` was called with."""
    parser = argparse.ArgumentParser(
        prog="python -m model.train",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("job", type=Path, help="folder with recipe.json and dataset/")
    parser.add_argument("--run-id", default="", help="default: the folder's name")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument(
        "--ranks",
        type=int,
        metavar="N",
        help="processes that share each batch, N at the most; by default one for each GPU",
    )
    parser.add_argument(
        "--workers", type=int, help="loader processes of a rank; by default one for each core"
    )
    parser.add_argument(
        "--threads", type=int, default=0, help="CPU threads of a rank; 0: all cores but one, shared"
    )
    parser.add_argument(
        "--save-every",
        type=float,
        default=SAVE_EVERY,
        metavar="MINUTES",
        help="a checkpoint at least so often (%(default)g); after each epoch in any case",
    )
    parser.add_argument(
        "--keep-step", type=int, metavar="STEP", help="keep a checkpoint of this step as well"
    )
    parser.add_argument(
        "--weights-url",
        default=os.environ.get(MIRROR, ""),
        help=f"where pretrained weights are, if not at PyTorch; default: {MIRROR}",
    )
    parser.add_argument(
        "--wandb", default="disabled", choices=("auto", "online", "offline", "disabled")
    )
    parser.add_argument(
        "--wandb-patience",
        type=float,
        default=WANDB_PATIENCE,
        metavar="SECONDS",
        help="how long to wait for W&B at the end (%(default)s)",
    )
    return parser.parse_args()
