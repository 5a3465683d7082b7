"""The command line of the fault harness."""

import argparse
import hashlib
import sys
import tempfile
import time
from pathlib import Path

from chaos.faults import Fault, fitting
from chaos.judge import complaints
from chaos.world import World, boundaries


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--case", help="only this one, as a line of the output names it")
    parser.add_argument("--match", default="", help="only cases whose name has this in it")
    parser.add_argument("--shard", default="1/1", help="only this part of them, as 2/4")
    parser.add_argument("--list", action="store_true", help="only list the cases")
    args = parser.parse_args()
    shard, shards = map(int, args.shard.split("/"))
    tried = failed = 0
    with tempfile.TemporaryDirectory() as folder, World(Path(folder)) as world:
        story = world.play(None, None, reap=False)
        print(f"clean run: {story.endings[0].seconds:.1f} s", *complaints(world, story), flush=True)
        if story.endings[0].outcome is None or "state" not in story.endings[0].outcome:
            print(story)
            return 1
        cases = [(str(b), f) for b in boundaries(list(world.board.passed)) for f in fitting(b)]
        cases.append(("", Fault.CLOCK))
        for number, (target, fault) in enumerate(cases):
            name = f"{target} {fault}"
            if args.case not in (None, name) or args.match not in name:
                continue
            if number % shards != shard - 1:
                continue
            if args.list:
                print(name)
                continue
            tried += 1
            reap = hashlib.sha256(name.encode()).digest()[0] % 4 == 0
            began = time.monotonic()
            story = world.play(target, fault, reap=reap)
            wrong = complaints(world, story)
            if not story.struck:
                wrong.append("it never came to that")
            failed += bool(wrong)
            ends = [e.outcome and (e.outcome.get("cause") or "done") for e in story.endings]
            print(f"{'FAIL' if wrong else 'ok  '} {time.monotonic() - began:5.1f} s {name}  {ends}")
            for one in wrong:
                print(f"       {one}")
            if wrong:
                for e in story.endings:
                    print("      ", e)
            sys.stdout.flush()
    print(f"cases tried: {tried} failed: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
