"""Score a net on a whole split, one native-size image at a time.

    python -m model.evaluate CHECKPOINT DATASET [--split val] [--flip] [--window N] [--json]

Padding a batch to one size would change logits near the borders, so nothing is batched. The mIoU
comes from one confusion matrix over all pixels of the split, void left out.
"""

import argparse
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from model.dataset import Dataset, Labelled
from model.device import is_out_of_memory
from model.errors import InputError, TrainingError
from model.images import Image
from model.inference import Predictor
from model.losses import Loss, build_loss
from model.manifest import SPLITS
from model.metrics import ConfusionMatrix
from model.ranks import ALONE, Ranks

PICTURES = 8  # validation samples that a person is shown


class Score(BaseModel):
    """How good a net is on a split. A class that occurs nowhere has no IoU and does not count."""

    model_config = ConfigDict(frozen=True)

    split: str
    images: int
    miou: float
    iou: dict[str, float | None]
    dice: dict[str, float | None]
    mean_dice: float
    pixel_accuracy: float
    loss: float  # the recipe's loss, mean over images


@dataclass
class Evaluation:
    """A score, and the predictions asked for: position in the split to uint8 [H, W]."""

    score: Score
    predictions: dict[int, Image] = field(default_factory=dict)


def spread(samples: int, total: int = PICTURES) -> set[int]:
    """At most `total` positions, evenly spread over `range(samples)`: whose pictures are shown."""
    return {round(i * (samples - 1) / (total - 1)) for i in range(total)}


def evaluate(
    predictor: Predictor,
    data: Dataset,
    loss: Loss,
    *,
    keep: Collection[int] = (),
    report: Callable[[int, int], None] | None = None,
    ranks: Ranks = ALONE,
) -> Evaluation:
    """Score a net on every sample of `data`; leaves the net in the mode it came in.

    `keep` names the positions whose predictions are returned; `report` hears (done, total). Of
    several ranks, which have the same net, each takes its samples, and all have the score of all.
    """
    classes = data.manifest.classes
    confusion = ConfusionMatrix(len(classes))
    losses = torch.zeros((), dtype=torch.float64)
    predictions: dict[int, Image] = {}
    net = predictor.net
    was_training = net.training
    net.eval()
    try:
        for turn, position in enumerate(ranks.positions(len(data)), 1):
            if position is not None:
                sample = data[position]
                logits = _logits(predictor, sample)
                targets = torch.from_numpy(sample.mask)[None].to(logits.device)
                prediction = logits.argmax(1).to(torch.uint8)
                confusion.update(prediction, targets)
                losses += loss(logits, targets).double().cpu()
                if position in keep:
                    predictions[position] = prediction[0].cpu().numpy()
            if report:
                report(min(turn * ranks.world, len(data)), len(data))
    finally:
        net.train(was_training)

    confusion.counts = ranks.total(confusion.counts.cpu())
    losses = ranks.total(losses)

    def by_class(scores: Tensor) -> dict[str, float | None]:
        return {n: None if v != v else v for n, v in zip(classes, scores.tolist(), strict=True)}

    score = Score(
        split=data.split,
        images=len(data),
        miou=confusion.miou(),
        iou=by_class(confusion.iou()),
        dice=by_class(confusion.dice()),
        mean_dice=confusion.mean_dice(),
        pixel_accuracy=confusion.pixel_accuracy(),
        loss=float(losses) / len(data),
    )
    return Evaluation(score, ranks.merged(predictions))


def _logits(predictor: Predictor, sample: Labelled) -> Tensor:
    """[1, C, H, W] of one photo; TrainingError where the memory is too small for it."""
    try:
        return predictor.logits(sample.photo)[None]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        height, width = sample.mask.shape
        raise TrainingError(
            "OUT_OF_MEMORY",
            f"The memory is too small to predict {sample.id}, {width}x{height} pixels, in one "
            "piece; shrink photos when the dataset is built (--max-side 1024).",
        ) from None


def evaluate_checkpoint(
    path: Path,
    dataset: Path,
    *,
    split: str = "val",
    device: str = "auto",
    window: int | None = None,
    flip: bool = False,
    keep: Collection[int] = (),
    report: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score a checkpoint file on a dataset folder; `window` and `flip` as of `Predictor`.

    Memory format and thread count are those of its training; so is the precision, but for `auto`,
    which is what `device` does best. On the same hardware the score is training's own to the last
    bit, but for windows and flips, which training does without.
    """
    predictor, description = Predictor.load(path, device, window=window, flip=flip)
    data = Dataset(dataset, split)
    if data.manifest.classes != description.classes:
        raise InputError(
            f"{path} knows the classes {', '.join(description.classes)}, the dataset has "
            f"{', '.join(data.manifest.classes)}; evaluate on a dataset with the same classes."
        )
    loss = build_loss(description.recipe, description.class_weights)
    threads = torch.get_num_threads()
    torch.set_num_threads(description.provenance.threads)
    try:
        return evaluate(predictor, data, loss, keep=keep, report=report)
    finally:
        torch.set_num_threads(threads)


def main() -> int:
    """Command line; 0 done, 1 too little memory, 2 wrong input."""
    parser = argparse.ArgumentParser(prog="python -m model.evaluate", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="a checkpoint.pt")
    parser.add_argument("dataset", type=Path, help="a built dataset's folder")
    parser.add_argument("--split", default="val", choices=SPLITS)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--window", type=int, help="predict in overlapping windows of this side")
    parser.add_argument("--flip", action="store_true", help="average with the mirror image")
    parser.add_argument("--json", action="store_true", help="print the score as one JSON object")
    args = parser.parse_args()
    try:
        score = evaluate_checkpoint(
            args.checkpoint,
            args.dataset,
            split=args.split,
            device=args.device,
            window=args.window,
            flip=args.flip,
        ).score
    except (InputError, TrainingError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    if args.json:
        print(score.model_dump_json())
        return 0
    print(f"{'':>16}  IoU     Dice")
    for name, iou in score.iou.items():
        dice = score.dice[name]
        print(f"{name:>16}  " + ("-" if iou is None or dice is None else f"{iou:.4f}  {dice:.4f}"))
    print(
        f"mIoU {score.miou:.4f}  mean Dice {score.mean_dice:.4f}  pixel accuracy "
        f"{score.pixel_accuracy:.4f}  {score.images} images"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
