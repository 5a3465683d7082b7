"""extract: an archive, wherever it lies, becomes a tar in the store and an index of its members.

The tar is stored under its hash, `archives/<sha256>.tar`, and then its index beside it. A plain tar
on this computer is only pointed at when the store is a folder here as well.
`archives/urls/<sha256 of the URL>.json` remembers which version of a URL became which archive, so
that the same input is neither fetched nor read a second time. No photo is unpacked.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock
from pydantic import BaseModel

from infra.stores import Store
from model.errors import InputError
from model.indexed_tar import index_tar, write_index
from pipeline.archive import Archive, LocalFile
from pipeline.download.fetch import Fetched, Retry, discard, fetch
from pipeline.download.local import read_local
from pipeline.download.remote import Fingerprint
from pipeline.download.spool import NoRoom, Room, SpoolFile, gunzip, writable
from pipeline.download.url import ArchiveUrl
from pipeline.parameters import Limits
from pipeline.progress import Progress, silent

_NOTES = "archives/urls"
_ROOM, _RETRY = Room(Limits().archive_bytes), Retry()
_GZIP = b"\x1f\x8b"
_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml")
_OTHERS = {
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "rar",
}


class _Tar(NamedTuple):
    """A tar that was found good: one in the spool, or the user's own."""

    path: Path
    sha256: str
    size: int
    index_file: Path
    index_sha256: str
    members: int
    original: LocalFile | None


class _Remembered(BaseModel):
    """What a URL held when it was last extracted."""

    version: Fingerprint
    archive: Archive


def extract(
    url: str,
    store: Store,
    spool: Path,
    *,
    room: Room = _ROOM,
    retry: Retry = _RETRY,
    report: Progress = silent,
) -> tuple[Archive, bool]:
    """Bring an archive into the store and index it; True when the store had it already.

    Args:
        url: a path or any fsspec URL of a tar or tar.gz, ending in `#sha256=HEX` when the hash of
            the file there is known.
        spool: a folder on this computer for downloads, and for copies of what a remote store has.
        room: how large the archive may be, and how much disk to leave free where the spool is.
        retry: how long to go on with a connection that keeps breaking.
        report: told of (bytes done, bytes in all or None) while the archive is read.

    Raises:
        InputError: it cannot be had, is not what was promised, or is no archive to be trusted.
        Failure: the store cannot take it.
    """
    source = ArchiveUrl.parse(url)
    with _locked(spool, source):
        remembered = _recall(source, store)
        held = remembered.version if remembered else None
        if source.path is not None:
            raw = read_local(source, source.path, held, report)
        else:
            raw = fetch(source, spool, held, room, retry, report)
        if raw is None and remembered is not None:
            return remembered.archive, True
        assert raw is not None, "only what is remembered can be unchanged"
        archive = _store(source, raw, _check(source, raw, spool, room), store, spool)
        note = _Remembered(version=raw.version, archive=archive)
        store.write(_note_key(source), note)
        return archive, False


@contextmanager
def _locked(spool: Path, source: ArchiveUrl) -> Iterator[None]:
    """One run at a time works on an archive; the next one finds it done."""
    lock = FileLock(spool / f"{source.key}.lock")
    with writable(spool / "lock"):
        spool.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _note_key(source: ArchiveUrl) -> str:
    return f"{_NOTES}/{source.key}.json"


def _recall(source: ArchiveUrl, store: Store) -> _Remembered | None:
    """What this URL held last time, provided that it is still there and is what is asked for."""
    remembered = store.read_whole(_note_key(source), _Remembered)
    if remembered is None:
        return None
    asked_for = source.sha256 in (None, remembered.archive.source_sha256)
    return remembered if asked_for and remembered.archive.is_whole(store) else None


def extracted_archives(store: Store) -> Iterator[Archive]:
    """All that a store remembers of its archives, by any URL; what is damaged is passed over."""
    for note in store.list(_NOTES):
        if remembered := store.read_whole(note.key, _Remembered):
            yield remembered.archive


def _check(source: ArchiveUrl, raw: Fetched, spool: Path, room: Room) -> _Tar:
    """Verify, unpack and index what came; what is refused is removed from the spool."""
    unpacked, index = spool / f"{source.key}.tar", spool / f"{source.key}.index"
    original = None
    if source.path is not None:
        original = LocalFile(path=str(source.path), version=raw.version)
    try:
        verified = raw.checksums.verify()
        path, checksums = raw.path, raw.checksums
        if _is_gzip(source, raw):
            with SpoolFile(unpacked, source, room) as file:
                file.start_at(0, None)
                gunzip(raw.path, file)
            path, checksums = unpacked, file.checksums
            if checksums.size == 0:
                raise InputError(f"{source.called} unpacks to nothing; check the file.")
        with writable(index):
            # What a checksum has proved complete needs no end mark to show it.
            members = index_tar(path, called=source.called, require_end=not verified)
            count = write_index(index, members)
        if count == 0:
            raise InputError(f"{source.called} holds no files; check that it is the right one.")
        if original is not None and not original.unchanged():
            raise InputError(f"{source.called} changed while it was read; run it again.")
    except InputError as error:
        unpacked.unlink(missing_ok=True)
        index.unlink(missing_ok=True)
        if not isinstance(error, NoRoom):
            discard(source, spool)
        raise
    plain = original if path == raw.path else None
    with index.open("rb") as written:
        index_sha256 = hashlib.file_digest(written, "sha256").hexdigest()
    return _Tar(path, checksums.sha256, checksums.size, index, index_sha256, count, plain)


def _store(source: ArchiveUrl, raw: Fetched, tar: _Tar, store: Store, spool: Path) -> Archive:
    """Put the tar, and then its index, where later stages find them."""
    here = store.local_path("") is not None
    archive = Archive(
        sha256=tar.sha256,
        size=tar.size,
        members=tar.members,
        source=source.shown,
        source_sha256=raw.checksums.sha256,
        index_sha256=tar.index_sha256,
        location=tar.original.path if tar.original is not None and here else "store",
        original=tar.original,
    )
    ours = tar.original is None
    if here and ours:
        store.put_file(archive.tar_key, tar.path, move=True)
    elif not here:
        if store.size(archive.tar_key) != archive.size:
            store.put_file(archive.tar_key, tar.path)
        if ours:
            tar.path.replace(spool / f"{archive.sha256}.tar")  # later stages read it here
    store.put_file(archive.index_key, tar.index_file, move=True)
    discard(source, spool)
    return archive


def _is_gzip(source: ArchiveUrl, raw: Fetched) -> bool:
    """Whether to unpack it; InputError for what is plainly something else."""
    if raw.checksums.size == 0:
        raise InputError(f"{source.called} is empty; check that it is the right file.")
    with raw.path.open("rb") as file:
        head = file.read(512)
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGES):
        raise InputError(
            f"{source.called} is a web page, not an archive; check the URL, it may need a login."
        )
    for magic, kind in _OTHERS.items():
        if head.startswith(magic):
            raise InputError(
                f"{source.called} is packed as {kind}; pack it again as tar or tar.gz."
            )
    return head.startswith(_GZIP)
