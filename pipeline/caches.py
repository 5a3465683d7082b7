"""What this computer keeps only to be quicker the next time, below VOC_TRAIN_HOME.

Downloads and copies of archives, copies of a bucket's datasets, folders of jobs that were killed.
Checkpoints that came home are no such thing: the store may have lost theirs.
"""

import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from infra.failure import Cause, Failure
from pipeline.holdings import Holdings

_UNTOUCHED = 86_400.0  # seconds since anything was written, for it to be nobody's work


@dataclass(frozen=True)
class Cached:
    """A file or folder; size in bytes."""

    path: Path
    why: str
    size: int


def copies(home: Path, held: Holdings) -> Iterator[Cached]:
    """All that may go: what nobody works on, of the runs of this store as of any other.

    Who reads leaves no trace. So while a run has not noted yet what it needs, no data goes.
    """
    in_use = [run for run in held.runs if run.in_use]
    if all(run.record and run.record.dataset for run in in_use if run.at_work):
        datasets = {run.record.dataset for run in in_use if run.record}
        for path in _untouched(home / "spool"):
            if path.suffix != ".lock":  # which somebody may hold
                yield Cached(path, "a download, or a copy of an archive", _size(path))
        for path in _untouched(home / "datasets"):
            if path.name not in datasets:
                yield Cached(path, "a copy of a dataset", _size(path))
    over = {run.run_id for run in held.runs} - {run.run_id for run in in_use}
    for path in _untouched(home / "jobs"):
        if path.name in over:  # of another store's nobody knows
            yield Cached(path, "what a job left", _size(path))


def clear(planned: Iterable[Cached], home: Path, held: Holdings) -> list[Cached]:
    """Delete what was planned and may go by now; returns it. Raises Failure(STORE)."""
    may_go = {one.path for one in copies(home, held)}
    gone = [one for one in planned if one.path in may_go]
    for one in gone:
        _delete(one)
    return gone


def _delete(cached: Cached) -> None:
    try:
        if cached.path.is_dir():
            shutil.rmtree(cached.path)
        else:
            cached.path.unlink(missing_ok=True)
    except OSError as error:
        raise Failure(Cause.STORE, f"{cached.path} cannot be deleted: {error.strerror}.") from error


def _untouched(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.glob("*")):
        if time.time() - max(one.lstat().st_mtime for one in _all(path)) >= _UNTOUCHED:
            yield path


def _size(path: Path) -> int:
    return sum(one.lstat().st_size for one in _all(path) if not one.is_dir())


def _all(path: Path) -> list[Path]:
    return [path, *path.rglob("*")]
