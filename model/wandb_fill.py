"""Make a Weights & Biases run hold what a journal says, whatever of it is there already.

    python -m model.wandb_fill JOB --mode online [--champion]

Reads what training left in `JOB/out`: `metrics.jsonl`, `samples/`, `checkpoints/`, and a report if
there is one. W&B takes no step twice and none out of order, and a run that was fed live may lack
some or hold those of an attempt that was given up. So a run that W&B has only a beginning of is
gone on with, and any other is replaced: opened anew by its id, without resuming, W&B forgets what
it held. What was delivered is noted in the run's own summary, and read back at the end.
"""

import argparse
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import wandb
from pydantic import BaseModel, ConfigDict, ValidationError
from wandb.apis.public import Api
from wandb.apis.public.runs import RunNotFoundError
from wandb.errors import AuthenticationError, UsageError

from model.errors import InputError
from model.journal import Journal, told_once
from model.wandb_feed import feed, identity, log_checkpoint, project
from model.wandb_process import WANDB_PATIENCE, Filled

REPORT, CHAMPION = "report.html", "champion"
_MARK = "filled"  # the summary's entry that says how far the run was filled
_POLL = 0.5  # seconds

Record = dict[str, Any]


class _Mark(BaseModel):
    """The first `records` of a journal, by their digest."""

    model_config = ConfigDict(frozen=True)

    records: int
    sha256: str
    report: str | None  # sha256 of the one that was delivered

    @classmethod
    def of(cls, records: Sequence[Record], report: str | None) -> "_Mark":
        digest = hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()
        return cls(records=len(records), sha256=digest, report=report)


@dataclass(frozen=True)
class _There:
    """What W&B has of a run."""

    mark: _Mark | None
    last: int  # step of its history; -1: it has none
    url: str


def fill(job: Path, *, online: bool, champion: bool, patience: float) -> Filled:
    """Fill the run of the job in `job`; with `champion`, its checkpoint gets that alias.

    `patience` in seconds is for each answer of W&B, and for the whole delivery. Raises InputError
    where the journal has no beginning, W&B's own errors where it refuses, and TimeoutError where
    it does not take everything in time.
    """
    records = told_once((job / "out" / Journal.METRICS).read_bytes())
    if not records or records[0]["kind"] != "start":
        raise InputError("The journal of this run has no beginning; nothing can be told of it.")
    start, report = records[0], job / "out" / REPORT
    digest = hashlib.sha256(report.read_bytes()).hexdigest() if report.exists() else None
    mark = _Mark.of(records, digest)
    there = _there(start["wandb_id"], patience) if online else None
    done = _delivered(records, there) if there else 0
    if there and there.mark == mark and done == len(records) and not champion:
        return Filled(did="nothing", sent=0, records=done, place=there.url)

    settings = wandb.Settings(
        init_timeout=patience, finish_timeout=patience, finish_timeout_raises=True, silent=True,
        console="off", disable_git=True, disable_code=True, x_disable_meta=True,
        x_disable_stats=True,
    )  # fmt: skip
    options = identity(job, start) | {"settings": settings}
    if done:
        options["resume"] = "must"
    run = wandb.init(mode="online" if online else "offline", **options)
    for record in records[done:]:
        if record["kind"] != "finish":
            feed(run, job, list(start["classes"]), record)
    log_checkpoint(run, job, [CHAMPION] if champion else [])
    if report.exists():
        run.save(str(report), base_path=str(report.parent), policy="now")
    run.summary[_MARK] = mark.model_dump()
    place = run.url if online else Path(run.dir).parent
    run.finish()
    if online:
        _must_have_arrived(start["wandb_id"], mark, patience)
    return Filled(
        did="added" if done else "replaced",
        sent=len(records) - done,
        records=len(records),
        place=str(place),
    )


def _there(wandb_id: str, patience: float) -> _There | None:
    """What W&B has of the run, or None where it knows of none."""
    try:
        run = Api(timeout=math.ceil(patience)).run(f"{project()}/{wandb_id}")
    except wandb.CommError as error:
        if isinstance(error.exc, RunNotFoundError):
            return None
        raise
    try:
        mark = _Mark.model_validate(dict(run.summary_metrics).get(_MARK))
    except ValidationError:
        mark = None
    return _There(mark, run.lastHistoryStep, run.url)


def _delivered(records: Sequence[Record], there: _There) -> int:
    """How many of the first records W&B has, and nothing else; none where it has anything else."""
    if there.mark is None:
        return 0
    count = there.mark.records
    before, after = _logged(records[:count]), _logged(records[count:])
    same = _Mark.of(records[:count], there.mark.report) == there.mark
    last = before[-1] if before else -1
    # It takes no more of a step that it has something of.
    return count if same and there.last == last and (not after or after[0] > last) else 0


def _logged(records: Sequence[Record]) -> list[int]:
    """The steps of the records that become W&B's history."""
    return [record["step"] for record in records if record["kind"] not in ("start", "finish")]


def _must_have_arrived(wandb_id: str, mark: _Mark, patience: float) -> None:
    """Until W&B says that it has all; its library ends well where the server refused some."""
    give_up = time.monotonic() + patience
    while not ((there := _there(wandb_id, patience)) and there.mark == mark):
        if time.monotonic() > give_up:
            raise TimeoutError("it does not have all that was sent")
        time.sleep(_POLL)


def main() -> int:
    """Command line; prints what was done as JSON, or why nothing was, in a sentence.

    0: done. 2: something must be put right first. 1: it may work later.
    """
    parser = argparse.ArgumentParser(
        prog="python -m model.wandb_fill",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("job", type=Path, help="a job's folder")
    parser.add_argument("--mode", required=True, choices=("online", "offline"))
    parser.add_argument("--champion", action="store_true", help="its checkpoint is the one in use")
    parser.add_argument("--patience", type=float, default=WANDB_PATIENCE, metavar="SECONDS")
    args = parser.parse_args()
    os.environ["WANDB_DIR"] = str(args.job)  # else the library leaves folders in the system's
    try:
        filled = fill(
            args.job,
            online=args.mode == "online",
            champion=args.champion,
            patience=args.patience,
        )
    except (InputError, AuthenticationError, UsageError) as error:
        print(_sentence(error))
        return 2
    except (wandb.Error, TimeoutError) as error:
        print(_sentence(error))
        return 1
    print(filled.model_dump_json())
    return 0


def _sentence(error: Exception) -> str:
    """The first line of what went wrong."""
    return (str(error).splitlines() or [type(error).__name__])[0]


if __name__ == "__main__":
    cv2.setNumThreads(1)
    sys.exit(main())
