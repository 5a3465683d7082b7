"""The report of a run: one HTML file that opens anywhere, offline.

Nothing in it is fetched and nothing in it runs: curves are inline SVG, pictures are data URIs, and
the page's own content security policy forbids the rest. Names and ids are text, never markup.
"""

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import PIL.Image

from model.images import Image
from model.palette import voc_palette
from model.recipe import Recipe, as_typed
from model.recipes import RECIPES
from model.verdict import Verdict
from pipeline.champion import Decision
from pipeline.page import page
from pipeline.pictures import Picture, panels, present
from pipeline.run_record import StageRecord

if TYPE_CHECKING:
    from model.checkpoint import CheckpointManifest
    from model.evaluate import Score

# Pixels of a picture's longer side at most; small ones are enlarged a whole number of times.
_LONGEST = 500
_MOST_POINTS = 400  # more than a curve on a screen can show

# What each chart draws: (name, style, kind of record, value in it).
_CHARTS = {
    "Loss": (
        ("training, steps", "steps", "step", "loss"),
        ("training", "train", "epoch", "train_loss"),
        ("validation", "val", "epoch", "val_loss"),
    ),
    "mIoU": (("validation", "val", "epoch", "miou"),),
    "Learning rate": (("peak", "train", "step", "lr"),),
}

Record = Mapping[str, Any]
Points = list[tuple[float, float]]


class _Line(NamedTuple):
    name: str
    style: str
    value: float  # the last one; of the learning rate, which ends at nothing, the highest
    points: Points


class _Chart(NamedTuple):
    """Everything in percent of the plot, whose size is the reader's screen's business."""

    title: str
    lines: list[_Line]
    across: list[tuple[float, str]]  # ticks: where, and their label
    up: list[tuple[float, str]]
    kept: tuple[float, float] | None  # the checkpoint's place on the curve


class _Contest(NamedTuple):
    """A verdict as it is drawn; places in percent of the axis, whose middle is no difference."""

    verdict: Verdict
    reach: str
    low: float
    high: float
    middle: float
    margin: float
    classes: list[tuple[str, float | None, float | None, float | None]]  # ours, theirs, gained


def render_report(
    *,
    run_id: str,
    checkpoint: "CheckpointManifest",
    score: "Score",
    records: Sequence[Record],
    pictures: Sequence[Picture],
    stages: Sequence[StageRecord],
    left_out: Mapping[str, int],
    counts: Mapping[str, int],
    sources: Mapping[str, str],
    max_side: int | None,
    decision: Decision | None = None,
    disputes: Sequence[Picture] = (),
) -> str:
    """The report as HTML.

    `score` is that of the fetched checkpoint, `records` are the lines of `metrics.jsonl`, `counts`
    the dataset's photos by split, `left_out` the photos that did not become samples, by reason.
    `sources` says where archives came from, by their sha256, and `max_side` is the side in pixels
    to which photos were shrunk. `decision` is what came of it against the champion, `disputes`
    are photos on which the two disagree most.
    """
    times = [record["time"] for record in records]
    iou = [(name, score.iou.get(name)) for name in checkpoint.classes]
    return page(
        "report.html",
        {"duration": _duration},
        run_id=run_id,
        checkpoint=checkpoint,
        score=score,
        ended=datetime.fromtimestamp(max(times), UTC) if times else None,
        charts=list(_charts(records, checkpoint)),
        bars=sorted([(n, v) for n, v in iou if v is not None], key=lambda bar: -bar[1]),
        absent=[name for name, value in iou if value is None],
        colours=dict(zip(checkpoint.classes, _hex_colours(), strict=False)),
        samples=[_sample(picture, checkpoint.classes) for picture in pictures],
        stages=stages,
        slowest=max((stage.seconds for stage in stages), default=0) or 1,
        left_out=", ".join(f"{count} {reason}" for reason, count in left_out.items() if count),
        counts={split: count for split, count in counts.items() if count},
        sources=sources,
        max_side=max_side,
        settings=list(_settings(checkpoint.recipe)),
        decision=decision,
        contest=_contest(decision.verdict) if decision and decision.verdict else None,
        disputes=[_sample(picture, checkpoint.classes) for picture in disputes],
    )


def _contest(verdict: Verdict) -> _Contest:
    """The interval to scale, symmetric about zero, and every class by what it gains."""
    reach = _ticks(max(abs(verdict.low), abs(verdict.high), verdict.margin))[-1]

    def place(difference: float) -> float:
        return round(50 + 50 * difference / reach, 2)

    classes = [
        (name, ours, theirs, None if None in (ours, theirs) else (ours or 0) - (theirs or 0))
        for name, (ours, theirs) in verdict.by_class.items()
    ]
    return _Contest(
        verdict,
        reach=f"{reach:g}",
        low=place(verdict.low),
        high=place(verdict.high),
        middle=place(verdict.difference),
        margin=place(verdict.margin),
        classes=sorted(classes, key=lambda one: -(one[3] or 0)),
    )


def _charts(records: Sequence[Record], checkpoint: "CheckpointManifest") -> Iterator[_Chart]:
    """The charts that have something to show; epochs run across all of them alike."""
    epochs = [record["epoch"] for record in records if record["kind"] in ("step", "epoch")]
    right = max(epochs, default=0) or 1
    across = [(100 * x / right, f"{x:g}") for x in _ticks(right, whole=True) if x <= right]
    for title, curves in _CHARTS.items():
        found = [(name, style, _points(records, *where)) for name, style, *where in curves]
        found = [(name, style, points) for name, style, points in found if points]
        if not found:
            continue
        up = _ticks(max(y for _, _, points in found for _, y in points))

        def place(x: float, y: float, top: float = up[-1]) -> tuple[float, float]:
            return round(100 * x / right, 2), round(100 * y / top, 2)

        marked = title == "mIoU" and checkpoint.miou is not None
        yield _Chart(
            title,
            lines=[
                _Line(
                    name,
                    style,
                    max(y for _, y in points) if name == "peak" else points[-1][1],
                    [place(*point) for point in _thinned(points)],
                )
                for name, style, points in found
            ],
            across=across,
            up=[(100 * y / up[-1], f"{y:g}") for y in up],
            kept=place(checkpoint.epoch, checkpoint.miou or 0) if marked else None,
        )


def _points(records: Sequence[Record], kind: str, key: str) -> Points:
    """(epoch, value) of every record of that kind; what is not finite cannot be drawn."""
    return [
        (record["epoch"], record[key])
        for record in records
        if record["kind"] == kind and math.isfinite(record[key])
    ]


def _thinned(points: Points) -> Points:
    """At most `_MOST_POINTS` points, each the mean of neighbours; the last one stays itself."""
    if len(points) <= _MOST_POINTS:
        return points
    groups = np.array_split(np.array(points), _MOST_POINTS - 1)
    return [*((float(x), float(y)) for x, y in (group.mean(0) for group in groups)), points[-1]]


def _ticks(top: float, *, whole: bool = False) -> list[float]:
    """A few round numbers, evenly from 0 to `top` or just above it."""
    rough = (top or 1) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor > 0.999 * rough)
    if whole:
        step = math.ceil(step)
    return [step * index for index in range(max(1, math.ceil(0.999 * top / step)) + 1)]


def _sample(picture: Picture, classes: Sequence[str]) -> dict[str, Any]:
    height, width = picture.truth.shape
    longest = max(height, width)
    scale = _LONGEST / longest if longest > _LONGEST else _LONGEST // longest
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return {
        "id": picture.id,
        "size": size,
        "classes": [classes[index] for index in sorted(present(picture))],
        "panels": [_jpeg_uri(panel) for panel in panels(picture, *size)],
    }


def _jpeg_uri(panel: Image) -> str:
    file = io.BytesIO()
    # Colour at full resolution: halved, it would smear the edges of the classes.
    PIL.Image.fromarray(panel).save(file, "JPEG", quality=85, subsampling=0, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _settings(recipe: Recipe) -> Iterator[tuple[str, str, str]]:
    """(setting, its value, its value in the recipe of that name); they differ if overridden."""
    named = RECIPES.get(recipe.name, recipe)
    for key in type(recipe).model_fields:
        if key not in ("name", "summary"):
            yield key, as_typed(getattr(recipe, key)), as_typed(getattr(named, key))


def _hex_colours() -> list[str]:
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in voc_palette().tolist()]


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_too = divmod(minutes, 60)
    return f"{hours} h {minutes_too:02d} min" if hours else f"{minutes} min {rest:02d} s"
