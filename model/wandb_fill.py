"""Make a Weights & Biases run hold what a journal says, whatever of it is there already.

    python -m model.wandb_fill JOB --mode online [--champion]

Reads what training left in `JOB/out`: `metrics.jsonl`, `samples/`, `checkpoints/`, and a report if
there is one. W&B only ever appends, whatever is there: sent again, every step would be there twice.
And a run that was fed live may lack some, or hold those of an attempt that was given up. So a run
that is known to hold a beginning of the journal gets the rest, and any other is first rewound to
its step 0, after which W&B forgets what it held. How far it was filled is noted in its own summary,
and read back at the end; for an offline folder it is noted beside that.
"""

import argparse
import hashlib
import json
import math
import os
import shutil
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
from wandb.errors import AuthenticationError, CommError, UsageError

from model.errors import InputError
from model.journal import Journal, told_once
from model.wandb_feed import feed, identity, log_checkpoint, project
from model.wandb_process import WANDB_PATIENCE, Filled

REPORT, CHAMPION = "report.html", "champion"
_MARK = "filled"  # the summary's entry that says how far the run was filled
_NOTE = "filled.json"  # the same of what is written offline
_POLL = 0.5  # seconds

Record = dict[str, Any]


class _Mark(BaseModel):
    """The first `records` of a journal, by their digest."""

    model_config = ConfigDict(frozen=True)

    records: int
    last: int  # step
    sha256: str
    report: str | None  # sha256 of the one that was delivered

    @classmethod
    def of(cls, records: Sequence[Record], report: str | None) -> "_Mark":
        digest = hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()
        return cls(
            records=len(records),
            last=records[-1]["step"] if records else -1,
            sha256=digest,
            report=report,
        )


@dataclass(frozen=True)
class _There:
    """What W&B has of a run, or an offline folder has for it."""

    mark: _Mark | None
    last: int  # step of its history; -1: it has none
    place: str


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
    there = _there(start["wandb_id"], patience) if online else _written(job)
    done = _delivered(records, there) if there else 0
    if there and there.mark == mark and done == len(records) and not champion:
        return Filled(did="nothing", sent=0, records=done, place=there.place)

    anew = there is not None and there.last >= 0 and not done
    if not online:
        if anew:
            _forget(job)
        (job / _NOTE).unlink(missing_ok=True)  # nothing is known until it is all written
    options = identity(job, start) | {"settings": _settings(patience)}
    if online and there:
        back = {"resume_from": f"{start['wandb_id']}?_step=0"}
        options |= back if anew else {"resume": "must"}
    run = wandb.init(mode="online" if online else "offline", **options)
    if anew:
        run.summary["best_miou"] = 0.0
    for record in records[done:]:
        if record["kind"] == "finish" or (anew and online and record["kind"] == "start"):
            continue  # the checkpoint follows in any case, and step 0 was left
        feed(run, job, list(start["classes"]), record)
    log_checkpoint(run, job, [CHAMPION] if champion else [])
    if report.exists():
        run.save(str(report), base_path=str(report.parent), policy="now")
    run.summary[_MARK] = mark.model_dump()
    place = run.url if online else str(Path(run.dir).parent)
    run.finish()
    if online:
        _must_have_arrived(start["wandb_id"], mark, patience)
    else:
        (job / _NOTE).write_text(mark.model_dump_json())
    return Filled(
        did="replaced" if anew else "added",
        sent=len(records) - done,
        records=len(records),
        place=str(place),
    )


def write_alias(job: Path) -> Filled:
    """Write offline, in a run of its own, that the checkpoint in `job` is the champion.

    The run that trained it may be at W&B already, where nothing is to be added to it.
    """
    start = told_once((job / "out" / Journal.METRICS).read_bytes())[0]
    of_its_own = {"id": f"{start['wandb_id']}-champion", "job_type": CHAMPION}
    named = identity(job, start) | of_its_own | {"settings": _settings()}
    run = wandb.init(mode="offline", **named)
    log_checkpoint(run, job, [CHAMPION])
    run.finish()
    return Filled(did="added", sent=0, records=0, place=str(Path(run.dir).parent))


def _settings(patience: float = WANDB_PATIENCE) -> "wandb.Settings":
    return wandb.Settings(
        init_timeout=patience, finish_timeout=patience, finish_timeout_raises=True, silent=True,
        console="off", disable_git=True, disable_code=True, x_disable_meta=True,
        x_disable_stats=True,
    )  # fmt: skip


def _there(wandb_id: str, patience: float) -> _There | None:
    """What W&B has of the run, or None where it knows of none."""
    try:
        run = Api(timeout=math.ceil(patience)).run(f"{project()}/{wandb_id}")
    except CommError as error:
        if isinstance(error.exc, RunNotFoundError):
            return None
        raise
    try:
        mark = _Mark.model_validate(dict(run.summary_metrics).get(_MARK))
    except ValidationError:
        mark = None
    return _There(mark, run.lastHistoryStep, run.url)


def _written(job: Path) -> _There | None:
    """What was written offline of the run, in one folder or several."""
    runs = _offline(job)
    if not runs:
        return None
    try:
        mark = _Mark.model_validate_json((job / _NOTE).read_bytes())
        return _There(mark, mark.last, str(runs[-1]))
    except (OSError, ValidationError):  # it was not written to the end
        return _There(None, 0, str(runs[-1]))


def _offline(job: Path) -> list[Path]:
    """The offline folders of the job, in their order."""
    return sorted((job / "out" / "wandb").glob("offline-run-*"))


def _forget(job: Path) -> None:
    """Delete what was written offline; InputError where W&B has it already."""
    for folder in _offline(job):
        if any(folder.glob("*.synced")):
            raise InputError(
                "W&B has another course of this run from an earlier folder, which only "
                "`voc-train wandb-sync` without --offline can put right."
            )
    for folder in _offline(job):
        shutil.rmtree(folder)


def _delivered(records: Sequence[Record], there: _There) -> int:
    """How many of the first records W&B has, and nothing else; none where it has anything else."""
    if there.mark is None:
        return 0
    count = there.mark.records
    same = _Mark.of(records[:count], there.mark.report) == there.mark
    after = [record["step"] for record in records[count:] if record["kind"] != "finish"]
    # It takes no more of a step that it has something of.
    whole = there.last == there.mark.last and (not after or after[0] > there.last)
    return count if same and whole else 0


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
    parser.add_argument("--mode", required=True, choices=("online", "offline", "alias"))
    parser.add_argument("--champion", action="store_true", help="its checkpoint is the one in use")
    parser.add_argument("--patience", type=float, default=WANDB_PATIENCE, metavar="SECONDS")
    args = parser.parse_args()
    os.environ["WANDB_DIR"] = str(args.job)  # else the library leaves folders in the system's
    try:
        if args.mode == "alias":
            filled = write_alias(args.job)
        else:
            online = args.mode == "online"
            filled = fill(args.job, online=online, champion=args.champion, patience=args.patience)
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
