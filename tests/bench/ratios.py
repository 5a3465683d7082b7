"""Ours beside what one would use instead: every row a ratio, measured in turns in one run.

    PYTHONPATH=tests/support python tests/bench/ratios.py [ROWS …] [--into docs/bench.md]

ROWS are files of `tests/bench/rows/`; without any, all of them. The medians, with quartiles in
brackets, of at least five pairs.
"""

import argparse
import importlib
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from machine import where
from pairs import Measured, NotMeasured, measured

_ROWS = Path(__file__).parent / "rows"
_INTRODUCTION = """\
Ours beside what one would use instead, in turns, in one run (`make bench`). Seconds of ours and
of the other, medians of at least five pairs; quartiles of the pairs' figure in brackets. Below the
table stands why a target is missed."""
_HEAD = ("what", "against", "seconds", "figure", "target", "met")


def main() -> int:
    """Measure, show, and write down; 1 where a target is missed."""
    names = sorted(path.stem for path in _ROWS.glob("[a-z]*.py"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", choices=[*names, []], metavar="ROWS", default=[])
    parser.add_argument("--pairs", type=int, help="of each row; at least five")
    parser.add_argument("--into", type=Path, help="a Markdown file for the table")
    args = parser.parse_args()
    done: list[Measured | NotMeasured] = []
    failed = False
    with tempfile.TemporaryDirectory(prefix="voc-train-bench-") as folder:
        os.environ["TESTS_HOME"] = folder  # where servers keep what they begin from
        for name in args.rows or names:
            try:
                done += _of(name, Path(folder), args.pairs)
            except Exception:  # the other rows are worth having
                traceback.print_exc()
                done.append(NotMeasured(name, "", "", "it failed"))
                failed = True
            if args.into:
                _write(done, args.into)
    table = Table(box=None, pad_edge=False)
    for name in _HEAD:
        table.add_column(name, no_wrap=name not in ("what", "against"))
    for one in done:
        table.add_row(*_cells(one))
    Console().print(table)
    print(*_notes(done), where(), sep="\n")
    return int(failed or any(isinstance(one, Measured) and not one.met for one in done))


def _write(done: list[Measured | NotMeasured], path: Path) -> None:
    lines = [_HEAD, ["---"] * len(_HEAD), *map(_cells, done)]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    below = "".join(f"\n- {line}" for line in _notes(done))
    path.write_text(f"# Measured\n\n{_INTRODUCTION}\n\n{text}\n{below}\n\n{where()}\n")


def _notes(done: list[Measured | NotMeasured]) -> list[str]:
    return [
        f"{one.what}, against {one.against}: {one.said}"
        for one in done
        if isinstance(one, Measured) and one.said
    ]


def _of(name: str, folder: Path, pairs: int | None) -> Iterator[Measured | NotMeasured]:
    """What comes of the rows of one file."""
    console, before, threads = Console(stderr=True), dict(os.environ), torch.get_num_threads()
    try:
        for row in importlib.import_module(f"rows.{name}").rows(folder):
            if isinstance(row, NotMeasured):
                yield row
                continue
            with console.status(f"{row.what} against {row.against}"):
                yield measured(row, pairs)
    finally:
        os.environ.clear()
        os.environ.update(before)  # without the servers that were there for these rows
        torch.set_num_threads(threads)


def _cells(one: Measured | NotMeasured) -> list[str]:
    if isinstance(one, NotMeasured):
        return [one.what, one.against, "", f"not measured: {one.why}", one.target, ""]
    unit = {"times as fast": "x", "of the time": "x time", "seconds over": " s over"}
    unit_of = unit[one.kind]
    sign = "≥" if one.kind == "times as fast" else "≤"
    return [
        one.what,
        one.against,
        f"{one.ours:.2g} / {one.baseline:.2g}",
        f"{one.figure:.3g}{unit_of} ({one.low:.3g}–{one.high:.3g})",
        f"{sign} {one.target:g}{unit_of}",
        "yes" if one.met else "no",
    ]


if __name__ == "__main__":
    sys.exit(main())
