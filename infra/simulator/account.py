"""The account: what it holds, what is going on in it, and what it costs."""

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from infra.clock import Clock
from infra.simulator.answers import JSON, Refusal, not_found, stamp
from infra.simulator.faults import Effect, Faults
from infra.simulator.schedule import Schedule
from infra.simulator.things import Instance, Thing

USERNAME = "rehearsal"

Kind = TypeVar("Kind", bound=Thing)


@dataclass(frozen=True)
class BillLine:
    """One thing's price: every begun hour from its creation until it is really gone."""

    kind: str
    id: int
    label: str
    created: datetime
    gone: datetime | None
    hours: int
    dollars: float


@dataclass
class Event:
    """Something that happened, or is still going on."""

    id: int
    action: str
    thing: Thing
    created: datetime
    seconds: float  # that it will take
    secondary: Thing | None = None
    status: str = ""  # when it has ended
    seen: bool = False

    def view(self, now: datetime) -> JSON:
        """What the API shows at this moment."""
        passed = (now - self.created).total_seconds()
        if self.status:
            status, percent = self.status, 100
        elif passed < 1:
            status, percent = "scheduled", 0
        else:
            # Seen on the real one: it jumps, and creeps, and jumps.
            status = "started"
            percent = 0 if passed < self.seconds / 3 else min(61, 50 + int(passed / 3))
        return {
            "id": self.id,
            "created": stamp(self.created),
            "seen": self.seen,
            "read": False,
            "percent_complete": percent,
            "time_remaining": None,
            "rate": None,
            "duration": float(round(self.seconds if self.status else passed)),
            "action": self.action,
            "username": USERNAME,
            "entity": self.thing.entity(),
            "status": status,
            "secondary_entity": self.secondary.entity() if self.secondary else None,
            "message": "",
            "details": {},
        }


class Account:
    """All things by kind and id; call everything under `schedule.lock`."""

    def __init__(self, clock: Clock, tell: Callable[[str], None]) -> None:
        self.clock = clock
        self.tell = tell
        self.schedule = Schedule(clock)
        self.faults = Faults()
        self.events: list[Event] = []
        self.past: list[Thing] = []
        self.settings: JSON = {
            "managed": False,
            "network_helper": True,
            "longview_subscription": None,
            "backups_enabled": False,
            "object_storage": "active",
            "interfaces_for_new_linodes": "linode_default_but_legacy_config_allowed",
            "maintenance_policy": "linode/migrate",
        }
        self._things: dict[str, dict[int, Thing]] = {}
        # Linode's numbers are large and say nothing about how many an account has.
        self.ids = itertools.count(97_180_001, 13)

    def now(self) -> datetime:
        """The time, to the second, as everything here is recorded."""
        return self.schedule.now().replace(microsecond=0)

    def add(self, thing: Thing) -> None:
        """From now on it exists, and costs."""
        self._things.setdefault(thing.kind, {})[thing.id] = thing
        if not thing.foreign:
            self.tell(f"{thing.kind} {thing.id} ({thing.label}) created")

    def find(self, kind: type[Kind], id: int) -> Kind:
        """What is there. Raises a 404 Refusal."""
        thing = self._things.get(kind.kind, {}).get(id)
        if not isinstance(thing, kind):
            raise not_found()
        return thing

    def all(self, kind: type[Kind]) -> list[Kind]:
        """Everything of a kind, oldest first."""
        # A copy at once: machines look while others change things.
        there = list(self._things.get(kind.kind, {}).values())
        return [thing for thing in there if isinstance(thing, kind)]

    def everything(self) -> list[Thing]:
        """Everything there is."""
        return [thing for kind in self._things.values() for thing in kind.values()]

    def remove(self, thing: Thing) -> None:
        """Gone: it is shown no more, and costs no more."""
        thing.gone = self.schedule.now()
        self._things[thing.kind].pop(thing.id, None)
        self.past.append(thing)
        if not thing.foreign:
            self.tell(f"{thing.kind} {thing.id} ({thing.label}) gone")

    def delete(self, thing: Thing, seconds: float, end: Callable[[], None]) -> None:
        """Delete a thing in `seconds`, unless a fault has it otherwise; `end` is what that does."""
        if thing.deleting:
            return
        known = {"label": thing.label, "path": f"/{thing.url}/{thing.id}"}
        if lingers := self.faults.strike(Effect.DELETE_LINGERS, **known):
            seconds = lingers.seconds
        thing.deleting = True
        if self.faults.strike(Effect.DELETE_FAILS, **known):

            def stays() -> None:
                thing.deleting = False

            self.begin(f"{thing.type}_delete", thing, seconds, stays, status="failed")
        elif seconds > 0:
            self.begin(f"{thing.type}_delete", thing, seconds, end)
        else:
            self.log(f"{thing.type}_delete", thing)
            end()

    def log(self, action: str, thing: Thing, secondary: Thing | None = None) -> Event:
        """Something that is done already."""
        event = Event(next(self.ids), action, thing, self.now(), 0, secondary, "finished")
        self.events.append(event)
        return event

    def begin(
        self,
        action: str,
        thing: Thing,
        seconds: float,
        end: Callable[[], None],
        *,
        also: Sequence[Thing] = (),
        status: str = "finished",
    ) -> None:
        """Start a job of `seconds` on a thing; `also` are busy with it, and `end` is its result."""
        event = Event(next(self.ids), action, thing, self.now(), seconds)
        event.secondary = also[0] if also else None
        self.events.append(event)
        for each in (thing, *also):
            each.jobs += 1

        def done() -> None:
            for each in (thing, *also):
                each.jobs -= 1
            if thing.gone:
                event.status = "failed"
                return
            event.status = status
            end()

        self.schedule.after(seconds, done)

    def check_label(self, kind: type[Thing], label: object, pattern: str, sizes: range) -> str:
        """A label that nothing else of the kind has. Raises a Refusal."""
        if not isinstance(label, str) or len(label) not in sizes:
            raise Refusal(f"Length must be {sizes.start}-{sizes.stop - 1} characters", "label")
        if not re.fullmatch(pattern, label):
            raise Refusal("Label contains characters that are not allowed", "label")
        if any(thing.label == label for thing in self.all(kind)):
            plural = {"instance": "linodes"}.get(kind.kind, f"{kind.kind}s")
            raise Refusal(f"Label must be unique among your {plural}", "label")
        return label

    def check_tags(self, tags: object, restricted: bool) -> list[str]:
        """Tags out of a request, each once. Raises a Refusal."""
        if not tags:
            return []
        if restricted:
            raise Refusal("Must be an unrestricted User to add or modify tags", "tags", status=403)
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            raise Refusal("Must be a list of strings", "tags")
        if not all(3 <= len(tag) <= 50 for tag in tags):
            raise Refusal("Length must be 3-50 characters", "tags")
        return sorted(set(tags))

    def bill(self) -> list[BillLine]:
        """What everything of ours that has a price costs until now."""
        lines = []
        for thing in [*self.past, *self.everything()]:
            if thing.hourly and not thing.foreign:
                end = thing.gone or self.clock.now()
                hours = max(1, math.ceil((end - thing.created).total_seconds() / 3600))
                dollars = round(hours * thing.hourly, 6)
                lines.append(
                    BillLine(
                        thing.kind, thing.id, thing.label, thing.created, thing.gone, hours, dollars
                    )
                )
        return sorted(lines, key=lambda line: line.created)

    def instance_is(self, instance: Instance, status: str) -> None:
        """Another state."""
        instance.status = status
        instance.updated = self.now()
        self.tell(f"instance {instance.id} ({instance.label}) {status}")
