"""A run in the terminal: progress bars where there is one, plain lines where there is not.

Everything goes to standard error, so that standard output holds the result alone.
"""

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from infra.failure import Cause

_PLAIN_EVERY = 10.0  # seconds between two plain progress lines


def harmless(words: str) -> str:
    """Words of others, such as a machine's log, without what would steer the terminal."""
    return "".join(
        c if c.isprintable() or c in "\t\n" else "\N{REPLACEMENT CHARACTER}" for c in words
    )


def _clock(seconds: float) -> str:
    """Minutes and seconds."""
    return "{}:{:02d}".format(*divmod(int(seconds), 60))


class _Elapsed(ProgressColumn):
    """Time until the stage ended; rich's own column stops where the bar is full."""

    def render(self, task: Task) -> Text:
        """Right-aligned, up to 999 minutes."""
        return Text(f"{_clock(task.elapsed or 0):>6}", style="progress.elapsed")


class _Bars(Progress):
    """Leaves the end of the line free: the ^C that a terminal echoes there must not wrap it."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """The table of all bars."""
        yield _Narrower(self.make_tasks_table(self.tasks))


class _Narrower:
    def __init__(self, table: RenderableType) -> None:
        self._table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(self._table, options.update(width=options.max_width - 4))


class Terminal:
    """Listens to a run and shows it to a person; use it as a context manager."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bars: Progress | None = None
        if self._console.is_terminal:
            whole = Column(no_wrap=True)
            rest = Column(no_wrap=True, overflow="ellipsis", ratio=1)
            self._bars = _Bars(
                TextColumn("{task.fields[mark]} {task.description:<16}", table_column=whole),
                BarColumn(bar_width=16, table_column=whole),
                TextColumn("{task.percentage:>3.0f}%", table_column=whole),
                _Elapsed(table_column=whole),
                TextColumn("{task.fields[note]}", style="dim", markup=False, table_column=rest),
                console=self._console,
                expand=True,
            )
        self.run_id: str | None = None  # once there is a run
        self.options: tuple[str, ...] = ()  # without which other commands do not find it
        self.rehearses = False  # then the account is gone afterwards, and nothing goes on
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
        self._dimly(what)

    def began(self, run_id: str) -> None:
        self.run_id = run_id
        self._dimly(f"run {run_id}")

    def started(self, stage: str) -> None:
        self._next_line = time.monotonic() + _PLAIN_EVERY
        if self._bars:
            self._ids[stage] = self._bars.add_task(stage, total=None, mark="[cyan]▸[/]", note="")
        else:
            self._console.print(f"{stage} …")

    def advanced(self, stage: str, done: float, total: float | None, note: str) -> None:
        if self._bars:
            bar = self._ids[stage]
            self._bars.update(bar, completed=done, total=total)
            left = self._bars.tasks[bar].time_remaining
            self._bars.update(bar, note=f"{_clock(left)} left  {note}" if left else note)
        elif total and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _PLAIN_EVERY
            self._console.print(f"{stage} {100 * done / total:.0f}%  {note}".rstrip())

    def said(self, stage: str, line: str) -> None:
        self._dimly(f"  {line}")

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

    def decided(self, run_id: str, said: str) -> None:
        """Its stage has said so."""

    def ended(self, run_id: str, failure: str | None) -> None:
        if failure:
            typed = " ".join([run_id, *self.options])
            in_vain = self.rehearses or failure.startswith((Cause.BAD_INPUT, Cause.BELOW_GATE))
            on = "" if in_vain else f", `voc-train resume {typed}` goes on from there"
            self._dimly(f"`voc-train status {typed}` shows how far it came{on}")

    def _dimly(self, line: str) -> None:
        # As the style of `print` it would dim the bars, too, until they are drawn again.
        self._console.print(Text(harmless(line), style="dim"))
