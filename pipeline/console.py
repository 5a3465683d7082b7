"""A run in the terminal: progress bars where there is one, plain lines where there is not.

Everything goes to standard error, so that standard output holds the result alone.
"""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

_PLAIN_EVERY = 10.0  # seconds between two plain progress lines


class _Elapsed(ProgressColumn):
    """Time until the stage ended; rich's own column stops where the bar is full."""

    def render(self, task: Task) -> Text:
        """Minutes and seconds."""
        minutes, seconds = divmod(int(task.elapsed or 0), 60)
        return Text(f"{minutes:3d}:{seconds:02d}", style="progress.elapsed")


class Terminal:
    """Listens to a run and shows it to a person; use it as a context manager."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bars: Progress | None = None
        if self._console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.fields[mark]} {task.description:<16}"),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f}%"),
                _Elapsed(),
                TextColumn("[dim]{task.fields[note]}"),
                console=self._console,
            )
        self._ids: dict[str, TaskID] = {}
        self._next_line = 0.0

    def __enter__(self) -> Self:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bars:
            self._bars.stop()

    def waiting(self, what: str) -> None:
        """Say what is being waited for before the first stage."""
        self._console.print(what, style="dim")

    def started(self, stage: str) -> None:
        self._next_line = time.monotonic() + _PLAIN_EVERY
        if self._bars:
            self._ids[stage] = self._bars.add_task(stage, total=None, mark="[cyan]▸[/]", note="")
        else:
            self._console.print(f"{stage} …")

    def advanced(self, stage: str, done: float, total: float | None) -> None:
        if self._bars:
            self._bars.update(self._ids[stage], completed=done, total=total)
        elif total and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _PLAIN_EVERY
            self._console.print(f"{stage} {100 * done / total:.0f}%")

    def said(self, stage: str, line: str) -> None:
        self._console.print(f"  {line}", style="dim", markup=False)

    def finished(self, stage: str, seconds: float, reused: bool, summary: str) -> None:
        if self._bars:
            total = self._bars.tasks[self._ids[stage]].total or 1
            self._bars.update(
                self._ids[stage], total=total, completed=total, mark="[green]✓[/]", note=summary
            )
            self._bars.stop_task(self._ids[stage])
        else:
            self._console.print(
                f"{stage} {'reused' if reused else 'done'} in {seconds:.1f} s: {summary}",
                markup=False,
            )
