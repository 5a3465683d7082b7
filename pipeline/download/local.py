"""An archive that lies on this computer: hashed where it is, never copied."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from model.errors import InputError
from pipeline.download.checksums import Checksums
from pipeline.download.fetch import Fetched
from pipeline.download.remote import Fingerprint
from pipeline.download.spool import CHUNK
from pipeline.download.url import ArchiveUrl
from pipeline.progress import Progress


def read_local(
    url: ArchiveUrl, path: Path, held: Fingerprint | None, report: Progress
) -> Fetched | None:
    """Hash a file; None when it is still the version `held`.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    must_be_a_file(path)
    try:
        version = local_version(path)
        if version.same_as(held):
            return None
        checksums = Checksums(url)
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                checksums.update(chunk)
                report(checksums.size, version.size)
    except OSError as error:
        raise _unreadable(path, error) from error
    return Fetched(path, version, checksums)


def must_be_here(archives: Sequence[str]) -> None:
    """Raise InputError for an archive on this computer that is not there, or is a folder."""
    for archive in archives:
        if path := ArchiveUrl.parse(archive).path:
            must_be_a_file(path)


def must_be_a_file(path: Path) -> None:
    """Raise InputError, with the cure, for what is no file or cannot be looked at."""
    try:
        if path.is_dir():
            raise InputError(
                f"{path} is a folder; pack it with `tar -cf data.tar -C {shlex.quote(str(path))} "
                ".` and give data.tar."
            )
        if not path.is_file():
            what = "is not a file" if path.exists() else "does not exist"
            raise InputError(f"{path} {what}; give the path of a tar archive.")
    except OSError as error:
        raise _unreadable(path, error) from error


def local_version(path: Path) -> Fingerprint:
    """What shows that a file is still the same without reading it; OSError when it is gone.

    The time of its last change counts too, which unlike its modification time nobody can set.
    """
    seen = path.stat()
    return Fingerprint(
        size=seen.st_size, etag=f"{seen.st_ino}-{seen.st_mtime_ns}-{seen.st_ctime_ns}"
    )


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path} cannot be read: {error.strerror}; check its rights.")
