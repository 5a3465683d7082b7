"""What is ours, and what only looks like it."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from infra.ownership import TAG, label, owner_of, run_of, tags
from infra.provider import Kind, Thing

_RUN = "261121-4k2ra"
_UNTIL = datetime(2026, 11, 21, 18, 30, tzinfo=UTC)
_OURS = tags(_RUN, _UNTIL)


def _thing(name: str, own: tuple[str, ...], kind: Kind = Kind.INSTANCE) -> Thing:
    return Thing(kind, 1, name, frozenset(own))


def test_what_we_made_is_known_by_label_and_tags() -> None:
    found = owner_of(_thing(label(_RUN, "t", 12), (*_OURS, "somebody's own tag")))
    assert found
    assert (found.run_id, found.until) == (_RUN, _UNTIL)
    assert run_of(label(_RUN, "k")) == _RUN


def test_labels_and_tags_fit_every_resource() -> None:
    assert len(label(_RUN, "t", 999)) <= 32
    assert all(3 <= len(tag) <= 50 for tag in _OURS)


def test_the_deadline_is_written_in_utc() -> None:
    local = _UNTIL.astimezone(datetime.now().astimezone().tzinfo)
    assert tags(_RUN, local + timedelta(0)) == _OURS


@pytest.mark.parametrize(
    ("name", "own"),
    [
        (label(_RUN, "t"), ()),
        (label(_RUN, "t"), (TAG,)),
        (label(_RUN, "t"), _OURS[1:]),
        (label(_RUN, "t"), _OURS[:2]),
        ("web-server", _OURS),
        (label(_RUN, "t") + "x", _OURS),
        ("my-" + label(_RUN, "t"), _OURS),
        (label("261121-other", "t"), _OURS),
        (label(_RUN, "t"), (*_OURS, "voc-train:run:261121-other")),
        (label(_RUN, "t"), (*_OURS, "voc-train:until:20300101T000000Z")),
        (label(_RUN, "t"), (*_OURS[:2], "voc-train:until:tomorrow")),
        ("voc-train-notes", (TAG,)),
    ],
)
def test_what_only_looks_like_ours_is_not(name: str, own: tuple[str, ...]) -> None:
    assert owner_of(_thing(name, own)) is None


def test_what_carries_no_tags_is_never_claimed_by_them() -> None:
    assert owner_of(_thing(label(_RUN, "k"), _OURS, Kind.KEY)) is None


def test_no_foreign_thing_among_thousands_is_claimed() -> None:
    rng = random.Random(0)
    parts = ["voc-train", "voc", "train", _RUN, "run", "until", "20261121T183000Z", "t1", "x", ""]
    for _ in range(5000):
        name = rng.choice("-_.").join(rng.choices(parts, k=rng.randint(1, 4)))
        own = {":".join(rng.choices(parts, k=rng.randint(1, 3))) for _ in range(4)}
        if own >= set(_OURS) and run_of(name):
            continue
        assert owner_of(_thing(name, tuple(own))) is None, (name, own)
