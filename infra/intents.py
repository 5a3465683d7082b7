"""Intents: notes in the store about what costs money, written before it is created.

    runs/<run>/intents/<kind>-<label>.json           before the call
    runs/<run>/intents/<kind>-<label>.created.json   the provider's id, once it is known
    runs/<run>/intents/<kind>-<label>.gone.json      what was seen when it was no longer there

Folded together they are the receipt, and all that a computer without memory needs to clear up.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from infra.lease import billed_hours
from infra.protocol import run_key
from infra.provider import Kind, Thing
from infra.stores import Store

_CREATED, _GONE = ".created", ".gone"


class Intent(BaseModel):
    """What is about to be created. `before` are the ids that bore its label already."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    label: str
    time: datetime
    until: datetime
    region: str = ""
    plan: str = ""
    dollars_per_hour: float = Field(0.0, ge=0, allow_inf_nan=False)
    before: tuple[int, ...] = ()


class Creation(BaseModel):
    """The provider's answer, or what a look for the label found; `created` by its own clock."""

    model_config = ConfigDict(frozen=True)

    id: int
    created: datetime


class End(BaseModel):
    """That something is no longer there, or never was."""

    model_config = ConfigDict(frozen=True)

    time: datetime
    said: str


class Entry(BaseModel):
    """All that is known of one thing."""

    intent: Intent
    creation: Creation | None = None
    end: End | None = None
    damaged: bool = False  # the intent: all that is known of it is its kind and label

    @property
    def open(self) -> bool:
        """Whether it may exist still."""
        return self.end is None

    def named(self, thing: Thing) -> bool:
        """Whether `thing`, which carries no tags, is this: by id, label and time of creation."""
        made = self.creation
        if made is None or (thing.kind, thing.id) != (self.intent.kind, made.id):
            return False
        return thing.label == self.intent.label and thing.created in (None, made.created)

    def dollars(self, now: datetime) -> float:
        """What it has cost until it was gone, or until `now`."""
        if self.creation is None or not self.intent.dollars_per_hour:
            return 0.0
        gone = self.end.time if self.end else now
        return billed_hours(self.creation.created, gone) * self.intent.dollars_per_hour

    def dollars_at_most(self, now: datetime) -> float:
        """The same until it has to be gone; where no answer came, it counts as created."""
        if not self.open:
            return self.dollars(now)
        created = self.creation.created if self.creation else self.intent.time
        return billed_hours(created, max(now, self.intent.until)) * self.intent.dollars_per_hour


class Intents:
    """The notes of one run. What was noted here is remembered even where the store fails later."""

    def __init__(self, store: Store, run_id: str) -> None:
        self.run_id = run_id
        self._store = store
        self._entries: dict[str, Entry] = {}
        self._unwritten: set[str] = set()  # creations that the store did not take

    @classmethod
    def load(cls, store: Store, run_id: str) -> Self:
        """What anybody noted of a run until now.

        Damage hides nothing: an intent is known by its name at least, and without a note of how it
        went it may have gone either way.
        """
        intents = cls(store, run_id)
        written = {one.key: one.modified for one in store.list(run_key(run_id, "intents"))}
        for key, time in written.items():
            if key.endswith((f"{_CREATED}.json", f"{_GONE}.json")):
                continue
            intent = store.read_whole(key, Intent)
            entry = Entry(intent=intent) if intent else _by_name(key, time)
            if entry is None or intents._key(entry.intent) != key:
                continue  # nothing of ours has such a name
            if (note := intents._key(entry.intent, _CREATED)) in written:
                entry.creation = store.read_whole(note, Creation)
            if (note := intents._key(entry.intent, _GONE)) in written:
                entry.end = store.read_whole(note, End)
            intents._entries[key] = entry
        return intents

    def intend(self, intent: Intent) -> None:
        """Note what comes next. Raises Failure(STORE), and then it must not come."""
        key = self._key(intent)
        if key in self._entries:  # what was noted of an earlier one says nothing of this
            self._store.delete(self._key(intent, _GONE))
            self._store.delete(self._key(intent, _CREATED))
        self._store.write(key, intent)
        self._entries[key] = Entry(intent=intent)

    def created(self, intent: Intent, thing: Thing) -> None:
        """Note what came of it. Raises Failure(STORE); it is remembered here all the same."""
        creation = Creation(id=thing.id, created=thing.created or intent.time)
        key = self._key(intent)
        self._entries[key].creation = creation
        self._unwritten.add(key)
        self._store.write(self._key(intent, _CREATED), creation)
        self._unwritten.discard(key)

    def ended(self, intent: Intent, time: datetime, said: str) -> None:
        """Note that it is no longer there, or never was; as with `created`."""
        key = self._key(intent)
        entry = self._entries[key]
        entry.end = End(time=time, said=said)
        # What it cost must not be forgotten: the store may have missed it, or a reaper, which
        # deleted what was never answered for, may know more.
        if entry.creation is None:
            entry.creation = self._store.read_whole(self._key(intent, _CREATED), Creation)
        elif key in self._unwritten:
            self._store.write(self._key(intent, _CREATED), entry.creation)
        self._store.write(self._key(intent, _GONE), entry.end)

    def entries(self) -> list[Entry]:
        """Everything of this run, in the order in which it was intended."""
        return sorted(self._entries.values(), key=lambda entry: entry.intent.time)

    def _key(self, intent: Intent, note: str = "") -> str:
        return run_key(self.run_id, "intents", f"{intent.kind}-{intent.label}{note}.json")


def may_have_been(store: Store, run_id: str) -> frozenset[tuple[str, str]]:
    """Kinds and labels of what a run created, or may have: one listing, and no note is read."""
    keys = (entry.key for entry in store.list(run_key(run_id, "intents")))
    names = {key.rsplit("/", 1)[-1].removesuffix(".json") for key in keys}
    intended = {name for name in names if not name.endswith((_CREATED, _GONE))}
    # What is gone without ever having been created was refused.
    refused = {name for name in intended if name + _GONE in names and name + _CREATED not in names}
    parted = (name.partition("-") for name in intended - refused)
    return frozenset((kind, label) for kind, _, label in parted)


def _by_name(key: str, time: datetime) -> Entry | None:
    """An intent that cannot be read: its name says what may be there."""
    kind, _, label = key.rsplit("/", 1)[-1].removesuffix(".json").partition("-")
    try:
        return Entry(
            intent=Intent(kind=Kind(kind), label=label, time=time, until=time), damaged=True
        )
    except ValueError:
        return None


def total(entries: Iterable[Entry], now: datetime) -> float:
    """Dollars that all of it has cost until now."""
    return round(sum(entry.dollars(now) for entry in entries), 4)
