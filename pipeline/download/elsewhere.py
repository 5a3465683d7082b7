"""Every other protocol, by whatever fsspec finds installed for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import fsspec.core

from model.errors import InputError
from pipeline.download.remote import Fingerprint, Interrupted, Opened
from pipeline.download.url import ArchiveUrl

_CHUNK = 1 << 20  # bytes

# What the file systems call these; the first one that is there counts.
_ETAGS = ("ETag", "etag", "e_tag", "md5Hash", "sha", "checksum")
_DATES = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")


@contextmanager
def open_elsewhere(
    url: ArchiveUrl, offset: int, part: Fingerprint | None, held: Fingerprint | None
) -> Iterator[Opened | None]:
    """Open by fsspec; see `open_remote`."""
    try:
        system, path = fsspec.core.url_to_fs(url.address)
    except (ValueError, ImportError) as error:
        raise InputError(
            f"{url.called} cannot be opened: {url.scheme}:// is unknown here, or needs a package "
            "of its own. Use a path, http(s):// or s3://, or install the fsspec package for it."
        ) from error
    with _explained(url):
        info = system.info(path)
        if info.get("type") == "directory":
            raise IsADirectoryError(path)
    version = _version(info)
    if held is not None and version.same_as(held):
        yield None
        return
    start = offset if part is not None and version.same_as(part) else 0
    with _explained(url):
        file = system.open(path, "rb")
    with file:
        yield Opened(version, start, _chunks(url, file, start))


def _chunks(url: ArchiveUrl, file: IO[bytes], start: int) -> Iterator[bytes]:
    with _explained(url):
        if start:
            file.seek(start)
        while chunk := file.read(_CHUNK):
            yield chunk


def _version(info: dict[str, Any]) -> Fingerprint:
    def first(names: tuple[str, ...]) -> str:
        return next((str(info[name]) for name in names if info.get(name)), "")

    return Fingerprint(size=info.get("size"), etag=first(_ETAGS), modified=first(_DATES))


@contextmanager
def _explained(url: ArchiveUrl) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"{url.called} does not exist, or is no file; check the URL.") from error
    except PermissionError as error:
        raise InputError(f"{url.called} is not open to you; check its rights.") from error
    except Exception as error:  # whatever a file system raises, it says that reading failed
        raise Interrupted(f"{type(error).__name__} from {url.scheme}://") from error
