"""Fill a Weights & Biases run from a training journal, live or afterwards.

    python -m model.wandb_feed JOB --mode offline [--follow]

Reads `JOB/out/metrics.jsonl`, so it can be run again at any time. With --follow it goes on reading
until its standard input is closed, which also happens when whoever started it dies.
"""

import argparse
import json
import os
import select
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import wandb

from model import checkpoint
from model.images import decode_mask, decode_photo

PROJECT, ARTIFACT = "voc-train", "checkpoint"


def records(path: Path, follow: bool) -> Iterator[dict[str, Any]]:
    """The journal's records; with `follow`, also those to come until standard input is closed."""
    position, last_look = 0, not follow
    while True:
        if path.exists():
            with path.open("rb") as file:
                file.seek(position)
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # still being written
                    position += len(line)
                    yield json.loads(line)
        if last_look:
            return
        readable, _, _ = select.select([sys.stdin], [], [], 0.5)
        last_look = bool(readable and not os.read(sys.stdin.fileno(), 1))


def project() -> str:
    """The W&B project that runs and checkpoints go to."""
    return os.environ.get("WANDB_PROJECT") or PROJECT


def identity(job: Path, start: dict[str, Any]) -> dict[str, Any]:
    """What `wandb.init` must know of a run, however it is filled; `start` opens its journal."""
    return {
        "project": project(),
        "id": start["wandb_id"],
        "group": start["run_id"],
        "name": f"{start['recipe']['name']} {start['run_id']}",
        "config": start["recipe"]
        | {key: start[key] for key in ("dataset_digest", "archives", "provenance")},
        "dir": str(job / "out"),
    }


def start_run(job: Path, start: dict[str, Any], mode: str, init_timeout: float = 15) -> "wandb.Run":
    """Open the W&B run; without a key, or with a server that does not answer, offline."""
    online = mode == "online" or (mode == "auto" and "WANDB_API_KEY" in os.environ)
    settings = wandb.Settings(
        init_timeout=init_timeout,
        silent=True,
        console="off",
        disable_git=True,
        x_disable_stats=True,
    )
    options = identity(job, start) | {"resume": "allow", "settings": settings}
    try:
        return wandb.init(mode="online" if online else "offline", **options)
    except wandb.Error as error:
        if not online:
            raise
        print(f"W&B cannot be reached ({str(error).splitlines()[0]}); logging offline", flush=True)
        wandb.teardown()
        return wandb.init(mode="offline", **options)


def feed(run: "wandb.Run", job: Path, classes: list[str], record: dict[str, Any]) -> None:
    """Log one record of the journal."""
    step = record["step"]
    match record["kind"]:
        case "start":
            run.log({"epoch": 0}, step=step)  # to go back to: see `model/wandb_fill.py`
        case "step":
            run.log({"train/loss": record["loss"], "lr": record["lr"]}, step=step)
        case "epoch":
            values = {
                "epoch": record["epoch"],
                "train/epoch_loss": record["train_loss"],
                "val/loss": record["val_loss"],
                "val/miou": record["miou"],
                "val/mean_dice": record["mean_dice"],
                "val/pixel_accuracy": record["pixel_accuracy"],
                "images_per_second": record["images_per_second"],
            }
            values |= {f"iou/{name}": iou for name, iou in record["iou"].items()}
            run.log({name: v for name, v in values.items() if v is not None}, step=step)
            run.summary["best_miou"] = max(record["miou"], run.summary.get("best_miou", 0.0))
        case "samples":
            folder = job / "out" / "samples"
            # A panel each, to see one photo's prediction grow over the epochs; W&B shows a list of
            # pictures of different size wrongly.
            run.log(
                {
                    f"samples/{name}": _picture(folder, name, step, classes)
                    for name in record["names"]
                    if (folder / f"{name}.{step:08d}.png").exists()  # else the store has lost it
                },
                step=step,
            )
        case "finish":
            log_checkpoint(run, job)


def _picture(folder: Path, name: str, step: int, classes: list[str]) -> "wandb.Image":
    labels = dict(enumerate(classes)) | {255: "void"}
    masks = {
        what: {
            "mask_data": decode_mask((folder / f"{name}.{file}").read_bytes(), name),
            "class_labels": labels,
        }
        for what, file in (("truth", "truth.png"), ("prediction", f"{step:08d}.png"))
    }
    photo = decode_photo((folder / f"{name}.photo.jpg").read_bytes(), name)
    return wandb.Image(photo, masks=masks, caption=name)


def log_checkpoint(run: "wandb.Run", job: Path, aliases: Sequence[str] = ()) -> None:
    """The best checkpoint as an artifact, with where it comes from.

    All runs' are versions of one artifact, in which an alias is borne by one version at a time: by
    `run-ID` each is found, and whoever gets `champion` takes it from the one before.
    """
    best = checkpoint.best(job / "out" / "checkpoints")
    if best is None:
        return
    manifest = checkpoint.verified(best)
    assert manifest
    artifact = wandb.Artifact(
        ARTIFACT, type="model", metadata=manifest.model_dump(mode="json", exclude={"iou"})
    )
    artifact.add_file(str(best / checkpoint.BLOB), policy="immutable")  # no copy of it is made
    run.log_artifact(artifact, aliases=[f"run-{manifest.wandb_id}", *aliases])


def main() -> int:
    """Command line; 0 when everything was handed to W&B."""
    parser = argparse.ArgumentParser(
        prog="python -m model.wandb_feed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("job", type=Path, help="a job's folder")
    parser.add_argument("--mode", default="auto", choices=("auto", "online", "offline"))
    parser.add_argument("--follow", action="store_true", help="until standard input is closed")
    parser.add_argument(
        "--init-timeout", type=float, default=15, metavar="SECONDS", help="to reach the server in"
    )
    args = parser.parse_args()
    if args.follow:
        # Ctrl-C in a terminal reaches the whole group; training decides when nothing more comes.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    run = None
    classes: list[str] = []
    for record in records(args.job / "out" / "metrics.jsonl", args.follow):
        if record["kind"] == "start":
            classes = record["classes"]
            run = start_run(args.job, record, args.mode, args.init_timeout)
        if run:
            feed(run, args.job, classes, record)
    if run:
        run.finish()
    return 0


if __name__ == "__main__":
    cv2.setNumThreads(1)
    sys.exit(main())
