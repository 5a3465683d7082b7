"""Pruning: what a store may lose, and how it loses it.

The champion stays, and what it was made from; of every earlier champion the run, and of its dataset
what says which photos it saw; the last runs; whatever somebody works on. Of a run that goes its
records stay, which are small: what it was, what it cost, who drove it. A dataset or an archive goes
when no run that stays needs it.

An object that makes others count, such as a manifest, is deleted before them. So whoever is killed
on the way leaves nothing that looks whole, and the next time the rest goes.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from infra.claims import Hold
from infra.failure import Cause, Failure
from infra.leftovers import UNFINISHED_AFTER, clear_leftovers
from infra.protocol import now, run_key
from infra.stores import Entry, Store
from pipeline.holdings import (
    DataKind,
    Holdings,
    StoredData,
    StoredRun,
    in_use,
    signs_of,
    survey,
)
from pipeline.pruned import PRUNED, Pruned

# Who needs no run's record, such as an evaluation, writes and reads for less than this.
_YOUNG = timedelta(days=1)


@dataclass(frozen=True)
class Terms:
    """What somebody wants to keep: the last runs, and those that began less than so long ago."""

    keep: int = 10
    older_than: timedelta = timedelta(0)


@dataclass(frozen=True)
class Item:
    """What goes together; size in bytes."""

    kind: Literal["run", DataKind, "leftover"]
    name: str
    why: str
    size: int
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What goes, in this order; what stays and why; what was not understood."""

    items: tuple[Item, ...]
    stays: dict[str, str]  # runs
    left_alone: dict[str, str]
    size: int  # bytes of the whole store

    @property
    def freed(self) -> int:
        """Bytes that go; what was never finished is not among those of the store."""
        return sum(item.size for item in self.items if item.kind != "leftover")


def what_may_go(held: Holdings, terms: Terms) -> Plan:
    """What may go of what is held."""
    stays, needed = _runs_that_stay(held, terms)
    left_alone = dict(held.strange)
    for run in held.runs:
        if run.record is None and run.entries and run.run_id not in stays:
            left_alone.setdefault(f"runs/{run.run_id}/", "has no record")
    runs = [
        Item("run", run.run_id, _why_a_run_goes(run), _size(run.entries), run.entries)
        for run in held.runs
        if run.record and run.entries and run.run_id not in stays
    ]
    blocked = _what_keeps_all_data(held)
    left_alone |= blocked
    data = [] if blocked else list(_data_that_goes(held, needed))
    half = [
        Item("leftover", one.name, "nobody finished writing it", one.size) for one in held.leftovers
    ]
    return Plan(tuple(runs + data + half), stays, left_alone, held.size)


def _runs_that_stay(held: Holdings, terms: Terms) -> tuple[dict[str, str], list[StoredRun]]:
    """By their ids, and why; and those of which all stays that they were made from."""
    champion = held.history.champion
    former = {one.checkpoint.run_id for one in held.history.decisions if one.kind == "promoted"}
    sweeps = held.sweeps
    # What left nothing but records, as a run to which nothing had changed, pushes no other out; a
    # sweep is one, however many settings it tried.
    whole = [
        run
        for run in held.runs
        if run.record and run.entries and not run.pruned and run.run_id not in sweeps
    ]
    last = {run.run_id for run in whole[: terms.keep]}
    since = min((run.record.started for run in whole[: terms.keep] if run.record), default=None)

    def why_stays(run: StoredRun) -> str:
        began = run.record.started if run.record else None
        if champion and run.run_id == champion.checkpoint.run_id:
            return "the champion"
        if run.in_use:
            return run.in_use
        if run.run_id in last:
            return f"among the last {terms.keep}"
        if began and not run.pruned and terms.older_than and held.time - began < terms.older_than:
            return f"begun less than {terms.older_than.days} days ago"
        return ""

    stays: dict[str, str] = {}
    needed = []
    reasons = {run.run_id: why_stays(run) for run in held.runs}
    for run in held.runs:
        began = run.record.started if run.record else None
        why = reasons[run.run_id]
        if not why and reasons.get(sweeps.get(run.run_id, "")):
            why = f"of sweep {sweeps[run.run_id]}, which stays"
        if why or (began and since and began >= since and not run.pruned):
            needed.append(run)
        if why or run.run_id in former:
            stays[run.run_id] = why or "champion before"
    return stays, needed


def _why_a_run_goes(run: StoredRun) -> str:
    if run.pruned:
        return "the rest of it"
    assert run.record
    return f"{run.record.state}, {run.record.started:%Y-%m-%d}"


def _what_keeps_all_data(held: Holdings) -> dict[str, str]:
    """Runs of which nobody knows what they need."""
    unknown = {}
    for run in held.runs:
        if run.at_work and not (run.record and run.record.dataset):
            unknown[f"runs/{run.run_id}/"] = (
                "is at work, and has not noted yet what it needs: no dataset or archive goes"
            )
        elif (key := run_key(run.run_id, "run.json")) in held.strange:
            unknown[key] = (
                "is damaged, so that what it needs is not known: no dataset or archive goes "
                "until you delete it"
            )
    return unknown


def _data_that_goes(held: Holdings, needed: Iterable[StoredRun]) -> Iterator[Item]:
    records = [run.record for run in needed if run.record]
    datasets = {record.dataset for record in records}
    if champion := held.history.champion:
        datasets.add(champion.checkpoint.dataset_key)
    judged = {
        one.checkpoint.dataset_key for one in held.history.decisions if one.kind == "promoted"
    }
    archives = {sha256 for record in records for sha256 in record.sources}
    for one in held.data:
        if one.kind == "dataset" and one.name in datasets:
            archives |= {*one.archives}
    archives |= {one.name for one in held.data if one.kind == "archive" and _is_young(one, held)}
    for one in held.data:
        if _is_young(one, held):
            continue
        match one.kind:
            case "dataset" if one.name in datasets:
                continue
            case "dataset" if one.name in judged and one.whole:
                shards = tuple(entry for entry in one.entries if "/shards/" in entry.key)
                if shards:
                    why = "shards of a former champion's; manifest and index stay"
                    yield _item(one, why, shards)
            case "dataset":
                why = "no run that stays needs it" if one.whole else "it was never finished"
                yield _item(one, why)
            case "archive" if one.name not in archives:
                yield _item(one, "no run that stays needs it")
            case "split" if not archives.issuperset(one.archives):
                yield _item(one, "it is of archives that go")


def _is_young(one: StoredData, held: Holdings) -> bool:
    return held.time - max(entry.modified for entry in one.entries) < _YOUNG


def _item(one: StoredData, why: str, entries: tuple[Entry, ...] = ()) -> Item:
    entries = entries or one.entries
    return Item(one.kind, one.name, why, _size(entries), entries)


def _size(entries: Iterable[Entry]) -> int:
    return sum(entry.size for entry in entries)


def must_not_be_too_much(plan: Plan, held: Holdings, most: float) -> None:
    """Raise Failure(BAD_INPUT) where more than `most` percent of runs or bytes would go."""
    whole = {run.run_id for run in held.runs if run.record and run.entries and not run.pruned}
    going = [item for item in plan.items if item.kind == "run" and item.name in whole]
    for part, of_all, what in (
        (len(going), len(whole), f"{len(going)} of {len(whole)} runs"),
        (plan.freed, plan.size, f"{plan.freed / 1e9:.2f} of {plan.size / 1e9:.2f} GB"),
    ):
        if part > of_all * most / 100:
            raise Failure(
                Cause.BAD_INPUT,
                f"{what} would go, which is more than {most:g} %. If that is what you want, allow "
                "it with --most 100; else --keep more.",
            )


def prune(
    store: Store, plan: Plan, held: Holdings, terms: Terms, say: Callable[[str], None] = print
) -> tuple[Item, ...]:
    """Delete what `plan` says and nobody needs by now; returns what has gone.

    Raises Failure where the store does not take it; called again, it goes on.
    """
    gone = []
    for item in plan.items:
        if item.kind != "run":
            continue
        if why := in_use(store, item.name, held) or _delete_run(store, item, held, say):
            say(f"run {item.name} stays: {why}")
            continue
        gone.append(item)
    # Somebody may have begun meanwhile, and need what nobody needed before.
    planned = {(item.kind, item.name) for item in plan.items}
    held = survey(store)
    for item in what_may_go(held, terms).items:
        if item.kind in ("run", "leftover") or (item.kind, item.name) not in planned:
            continue
        _must_be_same_champions(store, held)
        if begun := signs_of(store.list("runs")) - held.signs:
            run_id = min(begun).split("/")[1]
            say(f"run {run_id} is at work by now, and may need the rest: prune again afterwards")
            return tuple(gone)
        _delete(store, item)
        gone.append(item)
    clear_leftovers(store, UNFINISHED_AFTER)
    return (*gone, *(item for item in plan.items if item.kind == "leftover"))


def _delete_run(store: Store, item: Item, held: Holdings, say: Callable[[str], None]) -> str:
    """Delete a run; returns what needs it by now, in words, and then nothing was deleted."""
    try:
        with Hold(store, item.name, say=say):  # until it is gone nobody else goes on with it
            # To have it may have taken a minute, in which somebody drove it to its end.
            _must_be_same_champions(store, held)
            if why := in_use(store, item.name, held, claimed=True):
                return why
            store.write(run_key(item.name, PRUNED), Pruned(time=now(), why=item.why))
            _delete(store, item)
    except Failure as failure:
        if failure.cause is not Cause.CLAIMED:
            raise
        return str(failure)
    return ""


def _delete(store: Store, item: Item) -> None:
    """What makes the rest count goes first."""
    for rank in range(3):
        store.delete_many([e.key for e in item.entries if _rank(e.key) == rank])


def _rank(key: str) -> int:
    if key.endswith("/manifest.json") or key.startswith("archives/urls/"):
        return 0
    return 1 if key.endswith("index.jsonl") else 2


def _must_be_same_champions(store: Store, held: Holdings) -> None:
    known = {f"champions/{one.name}.json" for one in held.history.decisions}
    if known != {entry.key for entry in store.list("champions")}:
        raise Failure(Cause.STORE, "A champion was decided on meanwhile; prune again.")
