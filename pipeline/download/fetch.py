"""Downloading: once, however often the connection breaks or this process is killed."""

import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from model.errors import InputError
from pipeline.download.checksums import Checksums
from pipeline.download.elsewhere import open_elsewhere
from pipeline.download.http import open_http
from pipeline.download.remote import Fingerprint, Interrupted, Opened, Unreachable
from pipeline.download.s3 import open_s3
from pipeline.download.spool import CHUNK, Room, SpoolFile, writable
from pipeline.download.url import ArchiveUrl
from pipeline.progress import Progress

_LONGEST_PAUSE = 30.0  # seconds


class Retry(NamedTuple):
    """When to give up: after so many tries in a row that bring no new byte; the pause doubles."""

    tries: int = 5
    pause_seconds: float = 1.0


class Fetched(NamedTuple):
    """A download that is complete: where it lies, which version it is, what it hashes to."""

    path: Path
    version: Fingerprint
    checksums: Checksums


def fetch(
    url: ArchiveUrl,
    spool: Path,
    held: Fingerprint | None,
    room: Room,
    retry: Retry,
    report: Progress,
) -> Fetched | None:
    """Download into the spool, going on from what an earlier call left there.

    `<key>.part` grows, and `<key>.version` says of which version it is a part. A remote that has
    another version by now, or cannot start in the middle, is read from the beginning.

    Args:
        held: the version already in the store; None is returned when the remote still has it.

    Raises:
        InputError: it cannot be had, is too large, or the disk is too small.
    """
    part, note = spool / f"{url.key}.part", spool / f"{url.key}.version"
    furthest, failures, answered = 0, 0, False
    with SpoolFile(part, url, room) as file:
        while True:
            version = _read_version(note)
            try:
                with open_remote(url, _resume_at(part, version), version, held) as opened:
                    if opened.version.same_as(held):
                        discard(url, spool)
                        return None
                    answered = True
                    file.start_at(opened.offset, opened.version.size)
                    if opened.version != version:
                        # Only now: bytes of another version must not be here under this name.
                        with writable(note):
                            note.write_text(opened.version.model_dump_json())
                    _receive(opened, file, report)
                    return Fetched(part, opened.version, file.checksums)
            except Interrupted as error:
                if isinstance(error, Unreachable) and not answered:
                    raise InputError(
                        f"{url.called} cannot be reached: {error}. Check the URL and the network."
                    ) from error
                # Only bytes never reached before are progress, or a server that always stops at
                # the same place would be asked for ever.
                failures = 0 if file.size > furthest else failures + 1
                furthest = max(furthest, file.size)
                if failures >= retry.tries:
                    raise InputError(
                        f"{url.called} stopped at byte {file.size:,} and {failures} tries brought "
                        f"no more: {error}. Run the same command again to go on from there."
                    ) from error
            time.sleep(min(_LONGEST_PAUSE, retry.pause_seconds * 2**failures))


def open_remote(
    url: ArchiveUrl, offset: int, part: Fingerprint | None, held: Fingerprint | None
) -> AbstractContextManager[Opened]:
    """Open an archive at `offset` if it still is the version `part`, else at byte 0.

    Of the version `held` nobody will read the bytes, so there may be none.

    Raises:
        InputError: it cannot be had under this URL. The message never holds the URL's query.
        Interrupted: trying again may help. Also raised while the chunks are read.
    """
    if url.scheme in ("http", "https"):
        return open_http(url, offset, part, held)
    if url.scheme == "s3":
        return nullcontext(open_s3(url, offset, part))
    return nullcontext(open_elsewhere(url, offset, part))


def discard(url: ArchiveUrl, spool: Path) -> None:
    """Forget a download, finished or not."""
    for suffix in (".part", ".version"):
        (spool / f"{url.key}{suffix}").unlink(missing_ok=True)


def _receive(opened: Opened, file: SpoolFile, report: Progress) -> None:
    total, told = opened.version.size, file.size
    report(told, total)
    for chunk in opened.chunks:
        file.write(chunk)
        if file.size - told >= CHUNK:
            told = file.size
            report(told, total)
    if total is not None and file.size != total:
        raise Interrupted(f"{file.size:,} of {total:,} bytes came")
    report(file.size, total)


def _resume_at(part: Path, version: Fingerprint | None) -> int:
    if version is None:
        return 0
    size = part.stat().st_size
    # Of a complete part the last byte is fetched again: the answer says whether it is still valid.
    return size if version.size is None else max(0, min(size, version.size - 1))


def _read_version(note: Path) -> Fingerprint | None:
    try:
        return Fingerprint.model_validate_json(note.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
