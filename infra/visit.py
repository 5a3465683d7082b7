"""A computer that has a token and a store's URL, and no key for the bucket: it mints one.

The key's label is one of ours with the letter r, and it opens nothing but this bucket: so it is
known as ours though no note names it, since without it nothing can be noted. It is deleted when the
visit ends; what a killed visitor left, the reaper deletes.
"""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from infra.buckets import bucket_of
from infra.clock import Clock
from infra.failure import Cause, Failure
from infra.linode import Linode
from infra.ownership import label, run_of
from infra.provider import BucketKey, KeyOrder, Kind, Thing, Unclear

_NAMES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL")
_TRIES = 3
_STAYS = timedelta(days=2)  # a key of no run in the store, after the day in its label


@contextmanager
def access_to(store_url: str, run_id: str, clock: Clock) -> Iterator[None]:
    """A key for the store's bucket in this process's environment, where there is none.

    `run_id` is the run that it is for, or one that does not exist. Raises Failure where the
    provider gives no key, or does not know the bucket.
    """
    if not store_url.startswith("s3://") or set(_NAMES[:2]) & os.environ.keys():
        yield
        return
    bucket = bucket_of(store_url)[0]
    provider = Linode.from_environment(clock)
    endpoint = os.environ.get("AWS_ENDPOINT_URL") or provider.endpoint_of(bucket)
    key = _mint(
        provider, KeyOrder(label(run_id, "r", secrets.randbelow(999) + 1), bucket, endpoint)
    )
    before = {name: os.environ.get(name) for name in _NAMES}
    os.environ.update(zip(_NAMES, (key.access_key, key.secret_key, endpoint), strict=True))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        provider.delete(key.thing.kind, key.thing.id)


def is_visitors(thing: Thing, bucket: str) -> bool:
    """Whether it is a key as a visitor of this bucket mints it."""
    letter = re.search(r"-r\d{1,3}$", thing.label)
    return run_of(thing.label) is not None and letter is not None and thing.buckets == (bucket,)


def visit_ends(run_id: str, leases: list[datetime]) -> datetime:
    """Until when such a key may exist: as long as the run's `leases`, or some days of its own."""
    if leases:
        return max(leases)
    try:
        return datetime.strptime(run_id[:6], "%y%m%d").replace(tzinfo=UTC) + _STAYS
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)


def _mint(provider: Linode, order: KeyOrder) -> BucketKey:
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
