"""What a prune would delete, as a table."""

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.caches import Cached
from pipeline.console import harmless
from pipeline.pruning import Plan

_SHOWN = 16  # letters of a name that is a hash
_MB = 1e6


def print_pruning(plan: Plan, copies: Sequence[Cached]) -> None:
    """What goes, why and how large it is; what stays; what was not understood."""
    console = Console(highlight=False, soft_wrap=True)
    for name, why in plan.left_alone.items():
        console.print(Text(harmless(f"{name} {why}"), style="yellow"))
    if plan.items or copies:
        table = Table("what", "", "why it goes", "MB", box=None, pad_edge=False)
        table.columns[3].justify = "right"
        for item in plan.items:
            hashed = item.kind in ("dataset", "split", "archive")
            name = item.name[:_SHOWN] if hashed else item.name
            table.add_row(item.kind, Text(harmless(name)), item.why, _megabytes(item.size))
        for copy in copies:
            table.add_row("local", Text(harmless(copy.path.name)), copy.why, _megabytes(copy.size))
        size = sum(item.size for item in plan.items) + sum(copy.size for copy in copies)
        table.add_section()
        table.add_row("all", "", "", _megabytes(size), style="bold")
        console.print(table)
    else:
        console.print("There is nothing that could go.")
    for why, number in Counter(plan.stays.values()).items():
        console.print(Text(harmless(f"stays: {number} × {why}")))


def _megabytes(size: int) -> str:
    return f"{size / _MB:,.1f}"
