"""Tells people who are elsewhere how a run ended, if VOC_TRAIN_NOTIFY names a way to them."""

import os
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta

from infra.failure import Cause, Failure
from infra.notifications import notify
from infra.reaper_report import REPORT, Found, ReaperReport, last_look
from infra.receipt import read_receipt
from infra.stores import Store
from pipeline.grid import in_words
from pipeline.run_record import recorded_run
from pipeline.sweep import compare

_QUIET = "VOC_TRAIN_NOTIFY_UNCHANGED"  # set to anything, a run that had nothing to do says so, too
_MOMENT, _AGAIN = timedelta(seconds=30), timedelta(hours=1)


class Messenger:
    """Listens to a run."""

    def __init__(self, store: str) -> None:
        """`store` is the URL of the one in which the run's record lies."""
        self._store = store

    def began(self, run_id: str) -> None:
        """Whoever is elsewhere wants to know how it ends."""

    def started(self, stage: str) -> None:
        """As `began`."""

    def advanced(self, stage: str, done: float, total: float | None, note: str) -> None:
        """As `began`."""

    def said(self, stage: str, line: str) -> None:
        """As `began`."""

    def finished(self, stage: str, seconds: float, reused: bool, summary: str) -> None:
        """As `began`."""

    def decided(self, run_id: str, said: str) -> None:
        """Who is champion, and why."""
        notify(f"voc-train: run {run_id} was {said.partition(':')[0]}", said)

    def ended(self, run_id: str, failure: str | None) -> None:
        """Cause and cure, or what came of it."""
        paid = self._paid(run_id)
        if failure:
            if not failure.startswith(Cause.CLAIMED):  # else it goes on elsewhere
                tell_of_failure(f"run {run_id}", failure, paid)
            return
        record = recorded_run(Store.open(self._store), run_id)
        if record.outcome:
            title = f"voc-train: run {run_id} is done, mIoU {record.outcome.miou:.4f}"
            made = f"checkpoint  {record.outcome.checkpoint}\nreport      {record.outcome.report}"
            notify(title, "\n".join([made, *paid]))
        elif record.trials:
            best = compare(Store.open(self._store), record).rows[0]
            said = f"best        {in_words(best.settings)}, mIoU {best.miou:.4f}, run {best.run_id}"
            notify(f"voc-train: sweep {run_id} is done", "\n".join([said, *paid]))
        elif record.unchanged and os.environ.get(_QUIET):
            notify(f"voc-train: run {run_id} had nothing to do", record.unchanged.said)

    def _paid(self, run_id: str) -> list[str]:
        with suppress(Failure):
            if receipt := read_receipt(Store.open(self._store), run_id):
                return [f"cost        ${receipt.dollars:.2f}"]
        return []


def tell_of_failure(what: str, failure: str, more: Iterable[str] = ()) -> None:
    """Tell of something that failed, by its cause and sentence; urgent where it costs still."""
    cause, _, said = failure.partition(": ")
    urgent = cause == Cause.LEAKED
    title = f"voc-train: {what} failed: {cause}"
    if urgent:
        title = f"LEAKED: voc-train: {what} left something that costs money"
    notify(title, "\n".join([said, *more]), urgent=urgent)


def look_before(store: Store) -> ReaperReport | None:
    """What a reaper saw last; not knowing it must keep none from looking now."""
    with suppress(Failure):
        return last_look(store)
    return None


def tell_of_leak(store: Store, report: ReaperReport, before: ReaperReport | None) -> None:
    """Tell of what a reaper that deletes saw at this look as at the one `before`; once an hour.

    What has just been deleted may be listed for a moment, and a provider may not answer for one.
    """
    if before is None or not report.deletes or report.time - before.time < _MOMENT:
        return
    lingered = {(one.kind, one.id) for one in before.found if one.state == "lingers"}
    left = [one for one in report.found if one.state == "lingers"]
    lines = [_in_words(one) for one in left if (one.kind, one.id) in lingered]
    lines += [
        f"No {kind} can be looked at: {why}"
        for kind, why in report.unseen.items()
        if kind in before.unseen
    ]
    if not lines:
        return
    told = before.told
    if told is None or report.time - told >= _AGAIN:
        title = "LEAKED: voc-train: a reaper cannot delete what is past its deadline"
        notify(title, "\n".join(lines), urgent=True)
        told = report.time
    with suppress(Failure):  # it is told again, then
        store.write(REPORT, report.model_copy(update={"told": told}))


def _in_words(found: Found) -> str:
    price = found.dollars_per_hour
    cost = "" if price is None else f", ${price:.2f} an hour"
    said = f": {found.said}" if found.said else ""
    return f"{found.kind} {found.label} (id {found.id}{cost}){said}"
