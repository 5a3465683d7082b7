"""A remote archive opened at an offset, as one known version of itself.

Every protocol says which version it has before it gives bytes. So a download is never continued
with another file's bytes, and a version that is held already is not fetched again.
"""

from collections.abc import Iterable
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict


class Interrupted(Exception):
    """The bytes stopped coming, for a reason that may pass; the message says which."""


class Unreachable(Interrupted):
    """There was no answer at all: a wrong address, unless the host has answered before."""


class Fingerprint(BaseModel):
    """What tells one version of a file from another without reading it; size in bytes."""

    model_config = ConfigDict(frozen=True)

    size: int | None = None
    etag: str = ""
    modified: str = ""

    def same_as(self, other: "Fingerprint | None") -> bool:
        """Whether both name the same version; False when they say too little to know."""
        if other is None:
            return False
        sizes = {self.size, other.size} - {None}
        if len(sizes) > 1:
            return False
        if self.etag and other.etag:
            return self.etag == other.etag
        return bool(sizes and self.modified) and self.modified == other.modified


class Opened(NamedTuple):
    """An archive being read: which version, from which byte on, and its bytes."""

    version: Fingerprint
    offset: int
    chunks: Iterable[bytes]
