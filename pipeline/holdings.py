"""What a store holds, and what of it somebody needs: the facts by which `pruning.py` decides.

One listing of the store, and of every object that says what refers to what. Nothing is changed.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel

from infra.claims import may_be_driven
from infra.failure import Cause, Failure
from infra.intents import Entry as Rented
from infra.intents import Intents
from infra.leftovers import UNFINISHED_AFTER, Leftover, leftovers
from infra.protocol import Heartbeat, Result, now, run_key
from infra.reaper_report import ReaperReport, last_look
from infra.stores import Entry, M, Store
from model.manifest import Manifest
from pipeline.archive import Archive
from pipeline.champion import History
from pipeline.pruned import PRUNED
from pipeline.run_record import RunRecord, recorded_run
from pipeline.status import state_of

# Small, and for ever: what a run was and cost, and who must not go on with it.
_RECORDS = ("run.json", "receipt.json", PRUNED, "intents/", "claims/")
_CLAIMED = timedelta(hours=1)  # since a claim was written, for its owner to be at work perhaps
_PATIENCE = timedelta(days=7)  # in which somebody may go on with a run that is silent
_LATE = timedelta(days=1)  # after a lease, in which what was never answered for may still show
_RUNNING = "running"
_PREPARATION = "-prepare"  # what the job of a run is called that builds its dataset elsewhere
_TAR = re.compile(r"archives/([0-9a-f]{64})\.(?:tar|index\.jsonl)")

DataKind = Literal["dataset", "split", "archive"]


@dataclass(frozen=True)
class StoredRun:
    """A run; its `entries` are all that it left but its records."""

    run_id: str
    entries: tuple[Entry, ...]
    record: RunRecord | None = None  # None where there is none that can be read
    in_use: str = ""  # what needs it now, in words
    at_work: bool = False  # whether that may be somebody who prepares it
    pruned: bool = False


@dataclass(frozen=True)
class StoredData:
    """A dataset, a split or an archive; `archives` are those in it, by their sha256."""

    kind: DataKind
    name: str  # its key, digest or sha256
    entries: tuple[Entry, ...]
    archives: tuple[str, ...] = ()
    whole: bool = True  # whether the object is there that is written last


@dataclass(frozen=True)
class Holdings:
    """All of a store, as it was at `time`."""

    time: datetime
    signs: frozenset[str]  # of runs: see signs_of
    runs: tuple[StoredRun, ...]  # the newest first
    data: tuple[StoredData, ...]
    history: History
    leftovers: tuple[Leftover, ...]
    strange: Mapping[str, str]  # what cannot be understood: its key, and why it is left alone
    size: int = 0  # bytes, of all objects

    @property
    def sweeps(self) -> dict[str, str]:
        """Of which sweep a run is a trial, by their ids."""
        records = [run.record for run in self.runs if run.record]
        return {trial.run_id: record.run_id for record in records for trial in record.trials}


@dataclass
class _Sorted:
    """The listing, by what an object belongs to."""

    runs: dict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    datasets: dict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    splits: list[Entry] = field(default_factory=list)
    tars: dict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    notes: list[Entry] = field(default_factory=list)  # which URL became which archive
    strange: dict[str, str] = field(default_factory=dict)


def survey(store: Store) -> Holdings:
    """Look at all of it. Raises Failure(CORRUPT) for a damaged decision about a champion."""
    entries = [*store.list("")]
    found = _sorted(entries)
    report = last_look(store)
    runs = []
    for run_id, own in found.runs.items():
        parent = run_id.removesuffix(_PREPARATION)
        if parent != run_id and parent in found.runs:
            continue  # it is looked at with that
        all_of_it = [*own, *found.runs.get(f"{run_id}{_PREPARATION}", ())]
        try:
            runs.append(_run(store, run_id, all_of_it, report))
        except Failure as failure:
            found.strange[run_key(run_id, "run.json")] = _if_damaged(failure)
            runs.append(StoredRun(run_id, ()))
    runs.sort(key=lambda run: run.record.started if run.record else now(), reverse=True)
    return Holdings(
        time=now(),
        signs=signs_of(entries),
        runs=tuple(_in_use_with_their_sweeps(runs)),
        data=tuple(_data(store, found)),
        history=History.load(store),
        leftovers=tuple(leftovers(store, UNFINISHED_AFTER)),
        strange=found.strange,
        size=sum(entry.size for entry in entries),
    )


def in_use(store: Store, run_id: str, held: Holdings, *, claimed: bool = False) -> str:
    """What needs a run now, or the sweep that it is of, in words; "" for nothing.

    Asked anew: whoever went on with it since it was `held`, and ended, has written its record.
    Where the caller has `claimed` the run, its claims are not looked at.
    """
    report = last_look(store)
    known = {run.run_id: run.record for run in held.runs}
    for name in filter(None, (run_id, held.sweeps.get(run_id))):
        both = (name, f"{name}{_PREPARATION}")
        entries = [entry for one in both for entry in store.list(run_key(one))]
        if claimed and name == run_id:
            claims = run_key(name, "claims/")
            entries = [entry for entry in entries if not entry.key.startswith(claims)]
        run = _run(store, name, entries, report)
        use = run.in_use or ("" if run.record == known[name] else "somebody went on with it")
        if use:
            return use if name == run_id else f"of sweep {name}: {use}"
    return ""


def signs_of(entries: Iterable[Entry]) -> frozenset[str]:
    """By what of these objects one sees a run that begins, or that somebody goes on with.

    A folder below runs/, and in it the claim of whoever drives it, which has a name of its own.
    """
    keys = [entry.key for entry in entries if entry.key.startswith("runs/")]
    claims = {key for key in keys if key.split("/")[2:3] == ["claims"]}
    return frozenset({"/".join(key.split("/")[:2]) for key in keys} | claims)


def _in_use_with_their_sweeps(runs: Sequence[StoredRun]) -> Iterable[StoredRun]:
    using = {
        trial.run_id: f"of sweep {run.run_id}: {run.in_use}"
        for run in runs
        if run.in_use and run.record
        for trial in run.record.trials
    }
    return (replace(run, in_use=run.in_use or using.get(run.run_id, "")) for run in runs)


def _sorted(entries: Iterable[Entry]) -> _Sorted:
    found = _Sorted()
    for entry in entries:
        match entry.key.split("/"):
            case ["runs", run_id, _, *_]:
                found.runs[run_id].append(entry)
            case ["datasets", key, _, *_]:
                found.datasets[key].append(entry)
            case ["splits", _]:
                found.splits.append(entry)
            case ["archives", "urls", _]:
                found.notes.append(entry)
            case ["archives", _] if match := _TAR.fullmatch(entry.key):
                found.tars[match[1]].append(entry)
            case ["champions", _] | ["reaper.json"]:
                pass
            case [top, _, *_] if top not in ("archives", "datasets", "splits", "runs"):
                found.strange[f"{top}/"] = "is not known here"
            case _:
                found.strange[entry.key] = "is not known here"
    return found


def _run(
    store: Store, run_id: str, entries: Sequence[Entry], report: ReaperReport | None
) -> StoredRun:
    own = {e.key.removeprefix(run_key(run_id, "")): e for e in entries}
    rest = tuple(entry for name, entry in own.items() if not name.startswith(_RECORDS))
    record = recorded_run(store, run_id) if "run.json" in own else None
    # Whoever goes on with a run writes its record anew.
    pruned = bool(record) and PRUNED in own and own[PRUNED].modified >= own["run.json"].modified
    claims = [entry for name, entry in own.items() if name.startswith("claims/")]
    if may_be_driven(store, claims, now(), _CLAIMED):
        return StoredRun(run_id, rest, record, "driven by somebody", True, pruned)
    noted = any(name.startswith("intents/") for name in own)
    for one in Intents.load(store, run_id).entries() if noted else ():
        if one.open and not _seen_gone(one, run_id, report):
            what = f"its {one.intent.kind} {one.intent.label} is not proven gone"
            return StoredRun(run_id, rest, record, what, False, pruned)
    if record and record.state == "running" and not pruned:
        heard = max(entry.modified for entry in entries)
        use = _use_of(store, record, heard)
        return StoredRun(run_id, rest, record, use, use == _RUNNING, pruned)
    return StoredRun(run_id, rest, record, pruned=pruned)


def _use_of(store: Store, record: RunRecord, heard: datetime) -> str:
    heartbeat = store.read_whole(run_key(record.run_id, "heartbeat.json"), Heartbeat)
    result = store.read_whole(run_key(record.run_id, "result.json"), Result)
    match state_of(record, heartbeat, result, now()):
        case "running":
            return _RUNNING
        case "trained":
            return "trained, and not yet scored"
        case "silent" if now() - heard < _PATIENCE:
            return "silent for less than a week"
    return ""


def _seen_gone(one: Rented, run_id: str, report: ReaperReport | None) -> bool:
    """Whether a reaper that looked long after the lease, and at everything, did not see it."""
    if report is None or not report.deletes or not report.clean:
        return False
    late = report.time > one.intent.until + _LATE
    return late and all(found.run_id != run_id for found in report.found)


class _Note(BaseModel):
    archive: Archive


class _Part(BaseModel):
    archive: str


class _Split(BaseModel):
    pairs: tuple[_Part, ...]


def _data(store: Store, found: _Sorted) -> Iterable[StoredData]:
    for key, entries in found.datasets.items():
        name = f"datasets/{key}/manifest.json"
        if all(entry.key != name for entry in entries):
            yield StoredData("dataset", key, tuple(entries), whole=False)
        elif manifest := _read(store, name, Manifest, found):
            yield StoredData("dataset", key, tuple(entries), manifest.archives)
    for entry in found.splits:
        if split := _read(store, entry.key, _Split, found):
            archives = tuple({pair.archive for pair in split.pairs})
            name = entry.key.split("/")[1].removesuffix(".json")
            yield StoredData("split", name, (entry,), archives)
    for entry in found.notes:
        if note := _read(store, entry.key, _Note, found):
            found.tars[note.archive.sha256].append(entry)
    for sha256, entries in found.tars.items():
        yield StoredData("archive", sha256, tuple(entries))


def _read(store: Store, key: str, kind: type[M], found: _Sorted) -> M | None:
    """An object as a model; one that is damaged is strange."""
    try:
        return store.read(key, kind)
    except Failure as failure:
        found.strange[key] = _if_damaged(failure)
        return None


def _if_damaged(failure: Failure) -> str:
    if failure.cause is not Cause.CORRUPT:
        raise failure
    return "is damaged"
