"""The manifest of an archive, and how to read the archive that it describes."""

import hashlib
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel, ConfigDict

from infra.failure import Cause, Failure
from infra.integrity import hashes_to
from infra.stores import Store
from model.errors import InputError
from model.indexed_tar import Member, TarReader, read_index
from pipeline.download.local import local_version
from pipeline.download.remote import Fingerprint


class LocalFile(BaseModel):
    """A file of the user's, and the version of it that was indexed."""

    model_config = ConfigDict(frozen=True)

    path: str
    version: Fingerprint

    def unchanged(self) -> bool:
        """Whether the file is there and was not written to since."""
        try:
            return local_version(Path(self.path)) == self.version
        except OSError:
            return False


class Archive(BaseModel):
    """A tar in the store, or one on this computer that the store points at.

    sha256, size: of the uncompressed tar (lower-case hex; bytes). members: files in its index.
    source: where it came from, without credentials or query. source_sha256: of the bytes there,
    which may be gzip'd. index_sha256: of the index, None in what an older version extracted.
    location: "store", or the path of the tar when it was not copied.
    original: the user's own tar, when it lies on this computer.
    """

    model_config = ConfigDict(frozen=True)

    sha256: str
    size: int
    members: int
    source: str
    source_sha256: str
    index_sha256: str | None = None
    location: str
    original: LocalFile | None = None

    @property
    def tar_key(self) -> str:
        """The store's key of the tar."""
        return f"archives/{self.sha256}.tar"

    @property
    def index_key(self) -> str:
        """The store's key of the index."""
        return f"archives/{self.sha256}.index.jsonl"

    def is_whole(self, store: Store) -> bool:
        """Whether the store still has what it had of this archive; only the index is read."""
        index = store.get(self.index_key)
        if index is None or self.index_sha256 not in (None, hashlib.sha256(index).hexdigest()):
            return False
        return self.location != "store" or store.size(self.tar_key) == self.size


def read_archive_index(archive: Archive, store: Store, spool: Path) -> list[Member]:
    """The archive's files in its own order: name, and offset and size in bytes."""
    path = store.local_path(archive.index_key)
    if path is None:
        path = spool / f"{archive.sha256}.index.jsonl"
        store.get_file(archive.index_key, path, sha256=archive.index_sha256)
    elif archive.index_sha256 and not hashes_to(path, archive.index_sha256):
        raise _damaged(archive.index_key, store)
    members = list(read_index(path))
    if len(members) != archive.members:
        raise Failure(
            Cause.CORRUPT,
            f"{archive.index_key} in {store.url} lists {len(members)} of {archive.members} "
            "members; delete it and run again.",
        )
    return members


def local_tar(archive: Archive, store: Store, spool: Path) -> Path:
    """A path on this computer from which the archive's members can be read by offset.

    The user's own file or the store's, whichever is here; else a copy in the spool, which is
    fetched once, and again where it does not hash to what it should.

    Raises:
        InputError: the user's file is gone or was changed after it was indexed.
        Failure: the store lost the tar, or returns other bytes.
    """
    if archive.original is not None and archive.original.unchanged():
        return Path(archive.original.path)
    if archive.location != "store":
        raise InputError(
            f"{archive.location} was changed or removed after it was indexed; put it back, or run "
            "again."
        )
    own = store.local_path(archive.tar_key)
    if own is not None:
        if not hashes_to(own, archive.sha256):
            raise _damaged(archive.tar_key, store)
        return own
    copy = spool / f"{archive.sha256}.tar"
    spool.mkdir(parents=True, exist_ok=True)
    with FileLock(spool / f"{archive.sha256}.lock"):
        if not hashes_to(copy, archive.sha256):
            store.get_file(archive.tar_key, copy, sha256=archive.sha256)
    return copy


def _damaged(key: str, store: Store) -> Failure:
    return Failure(
        Cause.CORRUPT, f"{key} in {store.url} is not what was stored; delete it and run again."
    )


def must_be_unchanged(archive: Archive, tar: TarReader) -> None:
    """InputError when the user's own tar was written to since it was indexed, after reading it."""
    original = archive.original
    if original is not None and Path(original.path) == tar.path and not original.unchanged():
        raise InputError(f"{archive.source} changed while it was read; run it again.")
