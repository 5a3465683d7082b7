"""Creating and deleting what costs money, so that none of it can be forgotten.

Every create has its intent first and its outcome noted after; an answer that did not come is
looked for by label before anything is asked again. Every delete is asked for until a listing shows
that it was done.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from infra.clock import Clock
from infra.failure import Cause, Failure
from infra.intents import Entry, Intent, Intents
from infra.lease import Patience
from infra.ownership import TAGGED, label, owner_of, run_of
from infra.protocol import run_key
from infra.provider import (
    DELETION_ORDER,
    BucketKey,
    InstanceOrder,
    Kind,
    NoCapacity,
    Order,
    Provider,
    Refused,
    Thing,
    Unclear,
    VolumeOrder,
)
from infra.receipt import Phase, Receipt, receipt, write_receipt
from infra.stores import Store
from infra.uninterrupted import uninterrupted

_LISTINGS_APART = 60.0  # seconds, after which a thing that no listing shows was not created
_LOOK = 5.0  # seconds between two looks at what is being deleted
_TRIES = 3


class Rental:
    """Everything that one run has at a provider."""

    def __init__(
        self,
        provider: Provider,
        store: Store,
        run_id: str,
        *,
        clock: Clock,
        patience: Patience = Patience(),  # noqa: B008  # frozen
        say: Callable[[str], None] = print,
        must_hold: Callable[[], None] = lambda: None,
    ) -> None:
        """`must_hold` raises Failure(CLAIMED) where somebody else drives the run by now."""
        self.run_id = run_id
        self.provider = provider
        self.clock = clock
        self.patience = patience
        self.say = say
        self._must_hold = must_hold
        self._store = store
        self._intents = Intents.load(store, run_id)  # what an earlier controller had noted
        self._kept: set[str] = set()  # labels
        self._phases: list[Phase] = []

    def create(self, order: Order, *, price: float = 0.0, until: datetime) -> Thing | BucketKey:
        """Create one thing, exactly once.

        Raises NoCapacity or Refused where the provider said no, and then nothing was made; Unclear
        where it stays unknown, and then the intent stays open for whoever clears up;
        Failure(CLAIMED) where somebody else drives the run by now, and nothing was made, either.
        """
        self._must_hold()
        intent = self._intent(order, price, until)
        self._intents.intend(intent)
        unclear: Unclear | None = None
        for _ in range(_TRIES):
            try:
                made = self._made_while_held(order)
            except (NoCapacity, Refused) as refusal:
                self._must_not_be_replaced()  # what bears this label may be the successor's
                if unclear is None:  # else an earlier one may still show: whoever clears up looks
                    self._note_end(intent, f"not created: {refusal}")
                raise
            except Unclear as error:
                unclear = error
                self.say(f"no clear answer to the creation of {order.label}; looking for it")
                found = self._look_for(intent)
                if found is None:
                    self._must_hold()
                    continue  # under the same label, so that a late one collides
                self._take_back_if_replaced(found, order)
                made = found
            self._intents.created(intent, made.thing if isinstance(made, BucketKey) else made)
            if order.kind is Kind.KEY and not isinstance(made, BucketKey):
                raise Unclear(f"The key {order.label} was made, but its secret is lost.")
            return made
        assert unclear
        raise unclear

    def _made_while_held(self, order: Order) -> Thing | BucketKey:
        made = self.provider.create(order)
        self._take_back_if_replaced(made.thing if isinstance(made, BucketKey) else made, order)
        return made

    def _take_back_if_replaced(self, thing: Thing, order: Order) -> None:
        """Whoever was replaced while it created something deletes that at once, and goes."""
        try:
            self._must_hold()
        except Failure as failure:
            # Of the same label, and with other tags, is what the successor ordered.
            ours = thing.kind not in TAGGED or thing.tags == frozenset(getattr(order, "tags", ()))
            if failure.cause is Cause.CLAIMED and ours:
                with contextlib.suppress(Failure):  # its intent stays open for whoever clears up
                    self.provider.delete(thing.kind, thing.id)
            raise

    def _must_not_be_replaced(self) -> None:
        """Raise Failure(CLAIMED) like `must_hold`; where the store cannot say so, nobody came."""
        try:
            self._must_hold()
        except Failure as failure:
            if failure.cause is Cause.CLAIMED:
                raise

    def _intent(self, order: Order, price: float, until: datetime) -> Intent:
        tagged = order.kind in TAGGED
        there = [] if tagged else self.provider.list(order.kind, label=order.label)
        return Intent(
            kind=order.kind,
            label=order.label,
            time=self.clock.now(),
            until=until,
            region=order.region if isinstance(order, InstanceOrder | VolumeOrder) else "",
            plan=order.plan if isinstance(order, InstanceOrder) else "",
            dollars_per_hour=price,
            before=tuple(thing.id for thing in there),
        )

    def _look_for(self, intent: Intent) -> Thing | None:
        """The thing of an intent; None only after two listings a minute apart without it."""
        for wait in (True, False):
            found = [
                thing
                for thing in self.provider.list(intent.kind, label=intent.label)
                if self._is_of(thing, intent)
            ]
            if found:
                return found[0]
            if wait:
                self.clock.sleep(_LISTINGS_APART)
        return None

    def _is_of(self, thing: Thing, intent: Intent) -> bool:
        if thing.kind in TAGGED:
            ours = owner_of(thing)
            return ours is not None and ours.run_id == self.run_id
        return thing.id not in intent.before

    def next_label(self, part: str) -> str:
        """A name for another thing of this part; the same for whoever takes over in between."""
        names = {entry.intent.label for entry in self._intents.entries()}
        return next(
            name
            for number in itertools.count(1)
            if (name := label(self.run_id, part, number)) not in names
        )

    def committed(self) -> float:
        """Dollars that are spent, or may be until everything that is there has to be gone.

        Raises Failure(CORRUPT) where a note that said so is damaged.
        """
        now = self.clock.now()
        entries = self._intents.entries()
        if lost := [entry.intent.label for entry in entries if entry.damaged]:
            raise Failure(
                Cause.CORRUPT,
                f"The note of {lost[0]} in {run_key(self.run_id, 'intents')} is damaged, so what "
                "was spent is not known and nothing more is rented; start another run.",
                permanent=True,
            )
        return sum(entry.dollars_at_most(now) for entry in entries)

    def reached(self, name: str, said: str = "") -> None:
        """Note a step of the timeline: created, booting, set-up, training, verified, gone."""
        if not self._phases or self._phases[-1].name != name:
            self._phases.append(Phase(time=self.clock.now(), name=name, said=said))
        self._tell(f"{name}: {said}" if said else name)

    def receipt(self) -> Receipt:
        """How it all stands."""
        return receipt(
            self.run_id,
            self._intents.entries(),
            self.clock.now(),
            kept=frozenset(self._kept),
            phases=self._phases,
        )

    def keep(self, *labels: str) -> None:
        """Leave these there on purpose, until their time is over."""
        self._kept.update(labels)

    def let_go(self, *labels: str) -> None:
        """Delete these with the rest after all."""
        self._kept.difference_update(labels)

    def release(self, name: str) -> None:
        """Delete what bears this label, such as a machine that did not boot; see `tear_down`."""
        self._end(entry for entry in self._intents.entries() if entry.intent.label == name)

    def there(self, *kinds: Kind) -> list[Intent]:
        """What may exist still of these kinds, whoever created it, in the order of deletion."""
        entries = [e for e in self._intents.entries() if e.open and e.intent.kind in kinds]
        return [entry.intent for entry in _in_order(entries)]

    def replace(self, *names: str) -> None:
        """Delete what bears these labels, so that others may be created in their stead.

        Raises Failure(LEAKED) where one could not be shown gone: both would be paid for.
        """
        for name in names:
            self.release(name)
        end = self.receipt()
        rest = tuple(line for line in end.leaked if line.label in names)
        if rest:
            raise leaked(end.model_copy(update={"lines": rest}), "Nothing else was rented for it.")

    def tear_down(self) -> Receipt:
        """Delete everything but what is kept, see it gone, and leave the receipt in the store.

        Cannot be interrupted. Raises Failure(LEAKED) for what could not be shown gone; the
        receipt is in the store all the same. Raises Failure(CLAIMED), with nothing deleted, where
        somebody else drives the run by now.
        """
        return uninterrupted(self._tear_down)

    def _tear_down(self) -> Receipt:
        open_ = [e for e in self._intents.entries() if e.open and e.intent.label not in self._kept]
        why = self._end(_in_order(open_))
        end = self.receipt()
        if not end.leaked and self._phases:
            self.reached("gone" if not self._kept else "kept", f"${end.dollars:.2f}")
            end = self.receipt()
        self._must_not_be_replaced()  # the receipt is the successor's, too
        unwritten: Failure | None = None
        try:
            write_receipt(self._store, end)
        except Failure as failure:
            unwritten = failure
        if end.leaked:
            raise leaked(end, why)
        if unwritten:
            raise unwritten
        return end

    def _end(self, entries: Iterable[Entry]) -> str:
        """Delete these in order; returns what stood in the way, if anything did.

        Raises Failure(CLAIMED) where they are somebody else's to delete by now. Where the store
        cannot say so, they are deleted: what costs money comes first.
        """
        self._must_not_be_replaced()
        why = ""
        for entry in entries:
            if entry.open:
                try:
                    self._end_one(entry)
                except Exception as error:  # the others are deleted all the same
                    why = str(error) if isinstance(error, Failure) else type(error).__name__
        return why

    def _end_one(self, entry: Entry) -> None:
        intent = entry.intent
        give_up = self.clock.now() + timedelta(seconds=self.patience.deletion)
        number = entry.creation.id if entry.creation else None
        if number is None:
            if entry.damaged and intent.kind not in TAGGED:
                raise Refused(f"The note that tells whether {intent.label} is ours is damaged.")
            found = self._look_for(intent)
            if found is None:
                self._note_end(intent, "two listings do not show it")
                return
            with contextlib.suppress(Failure):
                self._intents.created(intent, found)
            number = found.id
        self._tell(f"deleting {intent.kind} {intent.label}")
        while True:
            try:
                self._must_be_ours(entry, number)
                self.provider.delete(intent.kind, number)
                if self._is_gone(intent, number):
                    self._note_end(intent, "no listing shows it")
                    self._tell(f"{intent.kind} {intent.label} is gone")
                    return
                why = Unclear(f"{intent.kind} {intent.label} (id {number}) is there still.")
            except Unclear as unclear:
                why = unclear
            if self.clock.now() > give_up:
                raise why
            self.clock.sleep(_LOOK)

    def _must_be_ours(self, entry: Entry, number: int) -> None:
        """Notes in the store may be forged: what is deleted has to show itself that it is ours."""
        there = self.provider.get(entry.intent.kind, number)
        if there is None:
            return
        match there.kind:
            case Kind.KEY:  # says nothing of its creation, but has our label or is not ours
                same = entry.named(there) and run_of(there.label) == self.run_id
            case Kind.SCRIPT:
                same = entry.named(there)
            case _:
                same = self._is_of(there, entry.intent)
        if not same or there.label != entry.intent.label:
            raise Refused(f"{there.kind} {number} is not this run's, whatever the store says.")

    def _tell(self, line: str) -> None:
        with contextlib.suppress(Exception):  # whoever listens must keep nothing alive
            self.say(line)

    def _note_end(self, intent: Intent, said: str) -> None:
        # A store that fails must keep nothing from being deleted; the receipt follows at the end.
        with contextlib.suppress(Failure):
            self._intents.ended(intent, self.clock.now(), said)

    def _is_gone(self, intent: Intent, number: int) -> bool:
        listed = self.provider.list(intent.kind, label=intent.label)
        if any(thing.id == number for thing in listed):
            return False
        return self.provider.get(intent.kind, number) is None


def _in_order(entries: Iterable[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: DELETION_ORDER.index(entry.intent.kind))


def leaked(end: Receipt, why: str) -> Failure:
    """What could not be shown gone, with what it costs and how to end it by hand."""
    rest = "; ".join(
        f"{line.kind} {line.label} (id {line.id or 'unknown'}, ${line.dollars_per_hour:.2f}/h)"
        for line in end.leaked
    )
    return Failure(
        Cause.LEAKED,
        f"Could not be shown gone: {rest}. {why} Run `voc-train reap --delete --run "
        f"{end.run_id}`, or delete it at cloud.linode.com, and look there that it is gone.",
    )
