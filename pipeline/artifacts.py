"""What Prefect's UI shows of a run: progress, log lines, a table, pictures, a summary."""

import base64
import html
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import UUID

from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.logging import get_run_logger

from infra.reaper_report import ReaperReport
from infra.receipt import Receipt
from pipeline.champion import Decision
from pipeline.run_record import Outcome, StageRecord, Unchanged
from pipeline.sweep import Comparison

if TYPE_CHECKING:
    from model.evaluate import Score

_EVERY = 2.0  # seconds between two updates of a progress bar: each is a request to the server
_PAUSE = 300.0  # the same when the server did not answer: a request may then hang for a minute


class PrefectListener:
    """Passes progress to the server of the current flow or task run."""

    def __init__(self) -> None:
        self._bars: dict[str, UUID] = {}
        self._next = 0.0

    def began(self, run_id: str) -> None:
        get_run_logger().info("run %s", run_id)

    def started(self, stage: str) -> None:
        self._next = 0.0

    def advanced(self, stage: str, done: float, total: float | None, note: str) -> None:
        if not total or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _EVERY
        with _if_it_can_be_told():
            self._show(stage, 100 * done / total)
            return
        self._next = time.monotonic() + _PAUSE

    def said(self, stage: str, line: str) -> None:
        get_run_logger().info(line)

    def finished(self, stage: str, seconds: float, reused: bool, summary: str) -> None:
        if stage in self._bars:
            with _if_it_can_be_told():
                self._show(stage, 100)
        get_run_logger().info("%s: %.1f s%s; %s", stage, seconds, " (reused)" * reused, summary)

    def decided(self, run_id: str, said: str) -> None:
        """Its stage has said so."""

    def ended(self, run_id: str, failure: str | None) -> None:
        if failure:
            get_run_logger().error("run %s failed: %s", run_id, failure)
        else:
            get_run_logger().info("run %s done; `voc-train status %s` shows it", run_id, run_id)

    def _show(self, stage: str, percent: float) -> None:
        if stage in self._bars:
            update_progress_artifact(self._bars[stage], progress=percent)
            return
        created = create_progress_artifact(
            progress=percent, key=f"voc-train-{stage}", description=f"progress of {stage}"
        )
        assert isinstance(created, UUID)
        self._bars[stage] = created


@contextmanager
def _if_it_can_be_told() -> Iterator[None]:
    """A server that is away must not end a training that does not need it."""
    try:
        yield
    except Exception as error:
        get_run_logger().warning("Prefect's server cannot be told how the run stands: %s", error)


def _cell(text: str) -> str:
    """Text that is neither HTML nor a column's border in a Markdown table."""
    return html.escape(text).replace("|", "&#124;")


def show_samples(png: bytes) -> None:
    """A picture of validation samples: photo, truth, prediction."""
    with _if_it_can_be_told():
        create_image_artifact(
            image_url=_as_uri(png),
            key="voc-train-samples",
            description="validation samples: photo, truth, prediction",
        )


def _as_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _number(score: float | None) -> str:
    return "–" if score is None else f"{score:.4f}"


def summarise(outcome: Outcome, stages: Sequence[StageRecord], score: "Score") -> None:
    """A table of the stages and a summary in words."""
    classes = "\n".join(
        f"| {_cell(name)} | {_number(iou)} | {_number(score.dice[name])} |"
        for name, iou in score.iou.items()
    )
    with _if_it_can_be_told():
        create_table_artifact(
            table=[
                {
                    "stage": stage.name,
                    "seconds": round(stage.seconds, 2),
                    "reused": "yes" if stage.reused else "no",
                    "what": stage.summary,
                }
                for stage in stages
            ],
            key="voc-train-stages",
            description="stages of the run",
        )
        create_markdown_artifact(
            markdown=(
                f"# Run {outcome.run_id}: mIoU {outcome.miou:.4f}\n\n"
                f"- checkpoint `{outcome.checkpoint}`\n- sha256 `{outcome.sha256}`\n"
                f"- weights digest `{outcome.weights_digest}`\n- report `{outcome.report}`\n\n"
                f"| class | IoU | Dice |\n|---|---|---|\n{classes}\n"
            ),
            key="voc-train-summary",
            description="what came out",
        )


def show_unchanged(unchanged: Unchanged) -> None:
    """Why nothing was trained."""
    with _if_it_can_be_told():
        create_markdown_artifact(
            markdown=f"# Run {unchanged.run_id}: nothing to do\n\n{_cell(unchanged.said)}\n",
            key="voc-train-unchanged",
            description="nothing has changed",
        )


def show_decision(decision: Decision, pictures: bytes | None) -> None:
    """Scores, interval and classes of a challenger; a picture of where it disagrees most."""
    verdict = decision.verdict
    rows = (verdict.by_class if verdict else {}).items()
    classes = "".join(
        f"| {_cell(name)} | {_number(ours)} | {_number(theirs)} "
        f"| {'' if None in (ours, theirs) else f'{ours - theirs:+.4f}'} |\n"  # type: ignore[operator]
        for name, (ours, theirs) in rows
    )
    with _if_it_can_be_told():
        create_markdown_artifact(
            markdown=(
                f"# Run {decision.checkpoint.run_id}: {decision.kind}\n\n{_cell(decision.said)}\n\n"
                f"| class | challenger | champion | |\n|---|---|---|---|\n{classes}"
            ),
            key="voc-train-decision",
            description="challenger against champion",
        )
        if pictures:
            create_image_artifact(
                image_url=_as_uri(pictures),
                key="voc-train-disputes",
                description="where they disagree most: photo, truth, challenger, champion",
            )


def show_receipt(receipt: Receipt) -> None:
    """What was rented, from its creation to the proof that it is gone, and what it cost."""
    with _if_it_can_be_told():
        create_table_artifact(
            table=[
                {
                    "what": f"{line.kind} {line.plan or line.label}",
                    "id": line.id,
                    "created": str(line.created or "?"),
                    "gone": line.end_in_words,
                    "hours": line.hours,
                    "dollars": line.dollars,
                }
                for line in receipt.lines
            ],
            key="voc-train-receipt",
            description=f"receipt of run {receipt.run_id}: ${receipt.dollars:.2f}",
        )


def show_reaped(report: ReaperReport) -> None:
    """What the reaper saw of ours, what became of it, and what it could not look at."""
    rows = [
        {
            "what": found.kind,
            "id": found.id,
            "label": found.label,
            "run": found.run_id,
            "until": f"{found.until:%Y-%m-%d %H:%M} UTC",
            "dollars an hour": found.dollars_per_hour,
            "state": found.state,
            "said": found.said,
        }
        for found in report.found
    ]
    rows += [{"what": kind, "state": "unseen", "said": why} for kind, why in report.unseen.items()]
    with _if_it_can_be_told():
        create_table_artifact(
            table=rows,
            key="voc-train-reaped",
            description=f"what the reaper saw at {report.time:%Y-%m-%d %H:%M} UTC",
        )


def show_comparison(sweep: Comparison) -> None:
    """A sweep's trials as a table, best first."""
    with _if_it_can_be_told():
        create_table_artifact(
            table=[
                {
                    **row.settings,
                    "mIoU": _number(row.miou),
                    "Dice": _number(row.dice),
                    "seconds": row.seconds,
                    "dollars": row.dollars,
                    "run": row.run_id,
                    "": "best" if row.run_id == sweep.best else row.how_it_stands,
                }
                for row in sweep.rows
            ],
            key="voc-train-sweep",
            description=f"settings of {sweep.recipe}, best first",
        )
