"""What is ours: labels and tags by which it is known again without any memory.

A thing that can carry tags is ours only with our label *and* all our tags, which must agree. One
that cannot is ours only where an intent names its id, its label and when it was made; see
`infra/intents.py`. Nothing else is ever touched.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from infra.provider import Kind, Thing

TAG = "voc-train"  # on everything that can carry tags
_RUN, _UNTIL = f"{TAG}:run:", f"{TAG}:until:"
_TIME = "%Y%m%dT%H%M%SZ"
_LABEL = re.compile(rf"{TAG}-(\d{{6}}-[0-9a-z]{{5}})-[a-z]\d{{1,6}}")
_ANYWHERE = re.compile(rf"(?<![\w.-]){_LABEL.pattern}(?![\w-]|\.\w)")
TAGGED = (Kind.INSTANCE, Kind.VOLUME, Kind.FIREWALL)


@dataclass(frozen=True)
class Owner:
    """Which run a thing belongs to, and until when it may exist."""

    run_id: str
    until: datetime


def label(run_id: str, part: str, number: int = 1) -> str:
    """The name of a run's `part` (one letter), the same for whoever asks: a second one collides.

    At most 30 characters, which every kind of thing allows.
    """
    return f"{TAG}-{run_id}-{part}{number}"


def run_of(name: str) -> str | None:
    """The run whose label this would be, or None."""
    match = _LABEL.fullmatch(name)
    return match[1] if match else None


def runs_in(text: str) -> set[str]:
    """Every run with a label of ours in a text of the provider's, such as a line of an invoice."""
    return set(_ANYWHERE.findall(text))


def tags(run_id: str, until: datetime) -> tuple[str, ...]:
    """What every taggable thing of a run carries; `until` in UTC."""
    return (TAG, _RUN + run_id, _UNTIL + until.astimezone(UTC).strftime(_TIME))


def owner_of(thing: Thing) -> Owner | None:
    """Whose a tagged thing is; None when it is not ours, or not beyond doubt."""
    runs = [tag.removeprefix(_RUN) for tag in thing.tags if tag.startswith(_RUN)]
    untils = [tag.removeprefix(_UNTIL) for tag in thing.tags if tag.startswith(_UNTIL)]
    if thing.kind not in TAGGED or TAG not in thing.tags or runs != [run_of(thing.label)]:
        return None
    try:
        (until,) = untils
        return Owner(runs[0], datetime.strptime(until, _TIME).replace(tzinfo=UTC))
    except ValueError:
        return None
