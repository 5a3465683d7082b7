"""Try every case, or some. `cases tried: N failed: M` is the last line; 1 where one failed."""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import IO

from chaos.cases import Case, Verdict, recorded
from chaos.faults import Fault
from chaos.table import markdown
from chaos.workers import all_tried
from chaos.world import World


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--case", help="only this one, by its name, as the output has it")
    parser.add_argument("--match", default="", help="only those whose name has this in it")
    parser.add_argument("--shard", default="1/1", help="only this part of them, as 2/4")
    parser.add_argument("--sample", type=int, help="only so many, the same ones each time")
    parser.add_argument("--workers", type=int, default=3, help="how many at the same time")
    parser.add_argument(
        "--go-on", type=Path, metavar="FILE", help="note there what held, and do not try it again"
    )
    parser.add_argument("--list", action="store_true", help="only name them")
    parser.add_argument("--table", action="store_true", help="only count them, in Markdown")
    args = parser.parse_args()
    if args.case:
        cases = [Case(args.case)]
        if args.case.rpartition(" ")[2] not in set(Fault):
            parser.error(f"{args.case!r} does not end in a fault: one of {', '.join(Fault)}")
    else:
        with tempfile.TemporaryDirectory() as folder, World(Path(folder)) as world:
            cases = recorded(world)
        shard, shards = map(int, args.shard.split("/"))
        cases = [c for c in cases if args.match in c.name and c.share(shards) == shard - 1]
        cases = sorted(cases, key=lambda case: case.share(1 << 32))[: args.sample]
    if args.table:
        print(markdown(cases))
        return 0
    if args.list:
        print(*(case.name for case in cases), sep="\n")
        return 0
    held, names = _held(args.go_on), {case.name for case in cases}
    left = [case for case in cases if case.name not in held]
    failed = 0
    for number, verdict in enumerate(all_tried(left, args.workers), len(held & names) + 1):
        failed += bool(verdict.wrong)
        _show(verdict, f"{number}/{len(cases)}")
        if args.go_on and not verdict.wrong:
            with args.go_on.open("a") as notes:
                print(json.dumps(verdict.case.name), file=notes)
    print(f"cases tried: {len(cases)} failed: {failed}")
    return 1 if failed else 0


def _held(notes: Path | None) -> set[str]:
    return {json.loads(line) for line in notes.open()} if notes and notes.exists() else set()


def _show(verdict: Verdict, progress: str, out: IO[str] = sys.stdout) -> None:
    mark = "FAILED" if verdict.wrong else "held"
    ends = ", ".join(verdict.ends)
    print(f"{progress} {mark} {verdict.seconds:5.1f} s  {verdict.case.name}  ({ends})", file=out)
    for complaint in verdict.wrong:
        print(f"         {complaint}", file=out)
    if verdict.wrong:
        print(f'         again: make chaos CASE="{verdict.case.name}"', file=out)
    out.flush()


if __name__ == "__main__":
    sys.exit(main())
