"""What nobody finished writing to a store: half an object, which no listing shows, yet takes room.

In a folder it is a file beside the place of the object; in a bucket, an upload in parts.
"""

import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from infra.buckets import FOLDERS, broken_uploads, clear_broken_uploads
from infra.failure import Cause, Failure
from infra.stores import Store

UNFINISHED_AFTER = timedelta(days=1)  # no writing of ours takes longer
# How obstore names a file on its way, and how one that comes by SFTP is named.
_PART = re.compile(r"#\d+$|^\.part-")


@dataclass(frozen=True)
class Leftover:
    """Half an object; size in bytes."""

    name: str  # in the store
    size: int


def leftovers(store: Store, older_than: timedelta) -> list[Leftover]:
    """What was begun longer ago than that; Failure(STORE) where it cannot be looked at."""
    root = store.local_path("")
    if root is None:
        return [Leftover(one.key, one.size) for one in broken_uploads(store, older_than)]
    before = (datetime.now(UTC) - older_than).timestamp()
    found = []
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if not _PART.search(path.name):
                continue
            with suppress(FileNotFoundError):  # it was finished meanwhile
                status = path.lstat()
                if stat.S_ISREG(status.st_mode) and status.st_mtime <= before:
                    found.append(Leftover(path.relative_to(root).as_posix(), status.st_size))
    return found


def clear_leftovers(store: Store, older_than: timedelta) -> None:
    """Delete what `leftovers` finds."""
    root = store.local_path("")
    if root is None:
        clear_broken_uploads(store, older_than)
        return
    for one in leftovers(store, older_than):
        try:
            (root / one.name).unlink(missing_ok=True)
        except OSError as error:
            raise Failure(
                Cause.STORE, f"{root / one.name} cannot be deleted: {error.strerror}."
            ) from error
