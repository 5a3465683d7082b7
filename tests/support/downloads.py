"""Downloading in tests: at once, of any size, and what came checked against its hash."""

import random
from hashlib import sha256
from pathlib import Path

from pipeline.download.fetch import Fetched, Retry, fetch
from pipeline.download.remote import Fingerprint
from pipeline.download.spool import Room
from pipeline.download.url import ArchiveUrl
from pipeline.progress import silent

DATA = random.Random(1).randbytes(300_000)
OTHER = random.Random(2).randbytes(300_000)
ANY_SIZE = Room(1 << 40, reserve_bytes=0)
AT_ONCE = Retry(tries=5, pause_seconds=0)


def get(
    url: str,
    spool: Path,
    *,
    held: Fingerprint | None = None,
    room: Room = ANY_SIZE,
    retry: Retry = AT_ONCE,
) -> Fetched | None:
    """Download into the spool; None when the remote still has the version `held`."""
    return fetch(ArchiveUrl.parse(url), spool, held, room, retry, silent)


def got(fetched: Fetched | None) -> bytes:
    """The bytes that came, once it is clear that they were hashed as they are."""
    assert fetched is not None
    data = fetched.path.read_bytes()
    assert fetched.checksums.sha256 == sha256(data).hexdigest()
    return data
