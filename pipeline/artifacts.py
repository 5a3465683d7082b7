"""What Prefect's UI shows of a run: progress, log lines, a table, pictures, a summary."""

import base64
import html
import time
from collections.abc import Sequence
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

from pipeline.run import Outcome, StageRecord

if TYPE_CHECKING:
    from model.evaluate import Score

_EVERY = 2.0  # seconds between two updates of a progress bar: each is a request to the server


class PrefectListener:
    """Passes progress to the server of the current flow or task run."""

    def __init__(self) -> None:
        self._bars: dict[str, UUID] = {}
        self._next = 0.0

    def started(self, stage: str) -> None:
        self._next = 0.0

    def advanced(self, stage: str, done: float, total: float | None) -> None:
        if not total or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _EVERY
        self._show(stage, 100 * done / total)

    def said(self, stage: str, line: str) -> None:
        get_run_logger().info(line)

    def finished(self, stage: str, seconds: float, reused: bool, summary: str) -> None:
        if stage in self._bars:
            self._show(stage, 100)
        get_run_logger().info("%s: %.1f s%s; %s", stage, seconds, " (reused)" * reused, summary)

    def _show(self, stage: str, percent: float) -> None:
        if stage in self._bars:
            update_progress_artifact(self._bars[stage], progress=percent)
            return
        created = create_progress_artifact(
            progress=percent, key=f"voc-train-{stage}", description=f"progress of {stage}"
        )
        assert isinstance(created, UUID)
        self._bars[stage] = created


def _cell(text: str) -> str:
    """Text that is neither HTML nor a column's border in a Markdown table."""
    return html.escape(text).replace("|", "&#124;")


def show_samples(png: bytes) -> None:
    """A picture of validation samples: photo, truth, prediction."""
    create_image_artifact(
        image_url=f"data:image/png;base64,{base64.b64encode(png).decode()}",
        key="voc-train-samples",
        description="validation samples: photo, truth, prediction",
    )


def summarise(outcome: Outcome, stages: Sequence[StageRecord], score: "Score") -> None:
    """A table of the stages and a summary in words."""
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
    classes = "\n".join(
        f"| {_cell(name)} | {'–' if iou is None else f'{iou:.4f}'} |"
        for name, iou in score.iou.items()
    )
    create_markdown_artifact(
        markdown=(
            f"# Run {outcome.run_id}: mIoU {outcome.miou:.4f}\n\n"
            f"- checkpoint `{outcome.checkpoint}`\n- sha256 `{outcome.sha256}`\n"
            f"- weights digest `{outcome.weights_digest}`\n- report `{outcome.report}`\n\n"
            f"| class | IoU |\n|---|---|\n{classes}\n"
        ),
        key="voc-train-summary",
        description="what came out",
    )
