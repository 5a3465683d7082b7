"""The reaper: deletes whatever outlived its lease. It remembers nothing and needs no run's help.

What carries tags is known by them, and the tags say until when it may exist. Keys and scripts carry
none: of those only what a run's intents name, and keys such as only `infra/visit.py` mints, once
their time is over. Nothing else is ever touched. It leaves `reaper.json` in the store, by which
renters see that somebody looks.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from infra.claims import Hold
from infra.clock import Clock
from infra.failure import Failure
from infra.intents import Entry, Intents
from infra.ownership import TAG, TAGGED, owner_of, run_of
from infra.provider import DELETION_ORDER, Kind, Provider, Thing
from infra.reaper_report import REPORT, Found, ReaperReport
from infra.stores import Store, bucket_of
from infra.visit import is_visitors, visit_ends

_LATE = timedelta(days=1)  # how long after a lease an unanswered create may still show
_RUN = re.compile(r"run (\d{6}-[0-9a-z]{5})")  # in a script's description


def reap(
    provider: Provider,
    store: Store,
    clock: Clock,
    *,
    delete: bool,
    run_id: str | None = None,
    say: Callable[[str], None] = print,
) -> ReaperReport:
    """Look at everything of ours; with `delete`, ask for what is past its lease to be gone.

    With `run_id`, only at what is that run's, and its lease is over now: nobody needs it any more.
    Who drives that run has to end then, and must not rent anew what is deleted.

    One look deletes, a later one may have to say so again: what lingers is reported, not waited
    for. Raises Failure when provider or store cannot be asked at all.
    """
    if delete and run_id:
        # By this claim its controller is replaced; a store that fails must keep no machine alive.
        with contextlib.suppress(Failure), Hold(store, run_id, wait=False):
            pass
    now = clock.now()
    found: list[Found] = []
    unseen: dict[Kind, str] = {}
    if delete:  # who may only look must not count as somebody who would end a machine
        try:
            provider.check([Kind.INSTANCE])
        except Failure as failure:
            unseen[Kind.INSTANCE] = str(failure)
    failures: list[Failure] = []
    prices = _Prices(provider)
    for kind in DELETION_ORDER:
        try:
            for thing, owner, until in _ours(provider, store, kind, now):
                if run_id in (None, owner):
                    found.append(_judge(prices, thing, owner, now if run_id else until, now))
                    if delete and found[-1].state == "expired":
                        _note(store, owner, thing)
        except Failure as failure:  # a token without one scope must not keep machines alive
            unseen[kind] = str(failure)
            failures.append(failure)
    if len(failures) == len(DELETION_ORDER):
        raise failures[-1]
    if delete:
        found = [_delete(provider, one, say) if one.state == "expired" else one for one in found]
    report = ReaperReport(time=now, deletes=delete, found=tuple(found), unseen=unseen)
    if run_id is None:  # a look at one run is no watch over all
        store.write(REPORT, report)
    return report


def _ours(
    provider: Provider, store: Store, kind: Kind, now: datetime
) -> Iterator[tuple[Thing, str, datetime]]:
    """Everything of a kind that is ours beyond doubt, its run, and until when it may exist."""
    if kind in TAGGED:
        for thing in provider.list(kind, tag=TAG):
            if owner := owner_of(thing):
                yield thing, owner.run_id, owner.until
        return
    notes: dict[str, list[Entry]] = {}
    bucket = bucket_of(store.url)[0] if store.url.startswith("s3://") else None
    for thing in provider.list(kind):
        if run_id := _run_named(thing):
            if run_id not in notes:
                notes[run_id] = _notes(store, run_id)
            leases = [entry.intent.until for entry in notes[run_id]]
            if any(_is(entry, thing) for entry in notes[run_id]):
                yield thing, run_id, max(leases)
            elif bucket and is_visitors(thing, bucket):
                yield thing, run_id, visit_ends(thing, leases, now)


def _notes(store: Store, run_id: str) -> list[Entry]:
    """What a run noted. A damaged note confirms nothing, and hides nothing else."""
    return [entry for entry in Intents.load(store, run_id).entries() if not entry.damaged]


def _note(store: Store, run_id: str, thing: Thing) -> None:
    """Where its creation was never answered, let the receipt know what was there, and cost."""
    with contextlib.suppress(Failure):  # no receipt is worth an hour more
        intents = Intents.load(store, run_id)
        for entry in intents.entries():
            intent = entry.intent
            if entry.creation is None and (intent.kind, intent.label) == (thing.kind, thing.label):
                intents.created(intent, thing)


def _run_named(thing: Thing) -> str | None:
    """The run that a thing without tags says it belongs to; only its intents can confirm it."""
    if thing.kind is Kind.KEY:
        return run_of(thing.label)
    match = _RUN.search(thing.description)
    return match[1] if match and thing.label.startswith(f"{TAG}-") else None


def _is(entry: Entry, thing: Thing) -> bool:
    """Whether the intent names it, or is one whose answer was lost and that only this can be."""
    if entry.named(thing):
        return True
    intent = entry.intent
    lost = entry.creation is None and entry.open
    same = (thing.kind, thing.label) == (intent.kind, intent.label)
    since = thing.created is None or intent.time - timedelta(minutes=5) <= thing.created
    soon = thing.created is None or thing.created <= intent.time + _LATE
    return lost and same and since and soon and thing.id not in intent.before


class _Prices:
    """Prices an hour, of which one look asks for each once, however many things have it."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._known: dict[tuple[Kind, str, str, int], float | None] = {}

    def of(self, thing: Thing) -> float | None:
        """What it costs; not knowing that must not keep it alive."""
        priced_by = thing.kind, thing.plan, thing.region, thing.size_gb
        if priced_by not in self._known:
            self._known[priced_by] = None
            with contextlib.suppress(Failure):
                self._known[priced_by] = self._provider.price(thing)
        return self._known[priced_by]


def _judge(prices: _Prices, thing: Thing, run_id: str, until: datetime, now: datetime) -> Found:
    return Found(
        kind=thing.kind,
        id=thing.id,
        label=thing.label,
        run_id=run_id,
        until=until,
        dollars_per_hour=prices.of(thing),
        state="expired" if until <= now else "live",
    )


def _delete(provider: Provider, found: Found, say: Callable[[str], None]) -> Found:
    say(f"deleting {found.kind} {found.label} (id {found.id})")
    try:
        provider.delete(found.kind, found.id)
        listed = any(thing.id == found.id for thing in provider.list(found.kind, label=found.label))
        there = listed or provider.get(found.kind, found.id) is not None
    except Failure as failure:
        return found.model_copy(update={"state": "lingers", "said": str(failure)})
    return found.model_copy(update={"state": "lingers" if there else "gone"})
