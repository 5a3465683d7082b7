"""A computer that has a token and a store's URL, and no key for the bucket: it mints one.

The key's label is one of ours with the letter r, and it opens nothing but this bucket: so it is
known as ours though no note names it, since without it nothing can be noted. Its number begins with
the day on which it was minted, since nothing else says it. It is deleted when the visit ends; what
a killed visitor left, the reaper deletes.
"""

import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from infra.clock import Clock
from infra.failure import Cause, Failure
from infra.ownership import label, run_of
from infra.provider import BucketKey, KeyOrder, Kind, Thing, Unauthorised, Unclear
from infra.stores import bucket_of

if TYPE_CHECKING:
    from infra.linode import Linode

_NAMES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL")
_TRIES = 3
_STAYS = timedelta(days=2)  # after the day on which it was minted; longer while its run's lease is
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAYS, _DRAWS = 1000, 1000  # days that are told apart, and keys of one run and day


@contextmanager
def access_to(store_url: str, run_id: str, clock: Clock) -> Iterator[None]:
    """A key for the store's bucket in this process's environment, where there is none.

    `run_id` is the run that it is for, or one that does not exist. Raises Failure where the
    provider gives no key, or does not know the bucket. Without a token there is none, as whoever
    opens the store will say.
    """
    provider = None
    if store_url.startswith("s3://") and not set(_NAMES[:2]) & os.environ.keys():
        from infra.linode import Linode

        with suppress(Unauthorised):
            provider = Linode.from_environment(clock)
    if provider is None:
        yield
        return
    bucket = bucket_of(store_url)[0]
    endpoint = os.environ.get("AWS_ENDPOINT_URL") or provider.endpoint_of(bucket)
    key = _mint(provider, KeyOrder(visitors_label(run_id, clock.now()), bucket, endpoint))
    before = {name: os.environ.get(name) for name in _NAMES}
    os.environ.update(zip(_NAMES, (key.access_key, key.secret_key, endpoint), strict=True))
    try:
        yield
    except BaseException:
        with suppress(Failure):  # the first failure is the one to hear of; the reaper deletes it
            _give_back(provider, key, before)
        raise
    _give_back(provider, key, before)


def _give_back(provider: "Linode", key: BucketKey, before: Mapping[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    provider.delete(key.thing.kind, key.thing.id)


def visitors_label(run_id: str, now: datetime) -> str:
    """The name of a visitor's key that is minted now."""
    day = (now - _EPOCH).days % _DAYS
    return label(run_id, "r", day * _DRAWS + secrets.randbelow(_DRAWS))


def is_visitors(thing: Thing, bucket: str) -> bool:
    """Whether it is a key as a visitor of this bucket mints it."""
    ours = run_of(thing.label) is not None and _number(thing) is not None
    return ours and thing.buckets == (bucket,)


def visit_ends(key: Thing, leases: list[datetime], now: datetime) -> datetime:
    """Until when a visitor's key may exist: as long as its run's `leases`, and two days at least.

    Whoever goes on with a run whose leases are over has none until something is rented anew.
    """
    today = (now - _EPOCH).days
    age = today - (_number(key) or 0) // _DRAWS
    # The nearest such day, which may be tomorrow by a clock that is ahead.
    age = (age + _DAYS // 2) % _DAYS - _DAYS // 2
    minted = _EPOCH + timedelta(days=today - age)
    return max([minted + _STAYS, *leases])


def _number(key: Thing) -> int | None:
    match = re.search(r"-r(\d+)$", key.label)
    return int(match[1]) if match else None


def _mint(provider: "Linode", order: KeyOrder) -> BucketKey:
    """A key; where the answer with its secret was lost, what was made is deleted and it asks anew.

    Nobody else has a key of this label: it has the run's id and a number that was drawn.
    """
    for _ in range(_TRIES):
        try:
            made = provider.create(order)
        except Unclear:
            for lost in provider.list(Kind.KEY, label=order.label):
                if is_visitors(lost, order.bucket):
                    provider.delete(lost.kind, lost.id)
            continue
        assert isinstance(made, BucketKey)
        return made
    raise Failure(
        Cause.PROVIDER,
        f"Linode did not answer clearly when it was asked for a key for {order.bucket}; try again, "
        "or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
    )
