"""Every other protocol, by whatever fsspec finds installed for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec

from model.errors import InputError
from pipeline.download.remote import Fingerprint, Interrupted, Opened, Unreachable
from pipeline.download.spool import CHUNK
from pipeline.download.url import ArchiveUrl

# What file systems call the sign of a version, or its date; the first one that is there counts.
_ETAGS = ("ETag", "etag", "e_tag", "md5Hash", "sha", "checksum")
_DATES = ("LastModified", "last_modified", "mtime", "updated", "modified", "modify", "created")


def open_elsewhere(url: ArchiveUrl, offset: int, part: Fingerprint | None) -> Opened:
    """Open by fsspec; see `open_remote`."""
    try:
        system, path = fsspec.core.url_to_fs(url.address)
    except (ValueError, ImportError) as error:
        raise InputError(
            f"{url.called} cannot be opened: {url.scheme}:// is unknown here, or needs a package "
            "of its own. Use a path, http(s):// or s3://, or install the fsspec package for it."
        ) from error
    except Exception as error:  # some file systems connect as soon as they are made
        # Of other errors only the kind is told, since their text may hold the URL's query.
        why = (isinstance(error, OSError) and error.strerror) or type(error).__name__
        raise Unreachable(f"{url.host or url.scheme} does not answer ({why})") from error
    with _explained(url):
        info = system.info(path)
        if info.get("type") == "directory":
            raise IsADirectoryError(path)
    version = Fingerprint(
        size=info.get("size"), etag=_first(info, _ETAGS), modified=_first(info, _DATES)
    )
    start = offset if version.same_as(part) else 0
    return Opened(version, start, _chunks(url, system, path, start))


def _first(info: dict[str, Any], names: tuple[str, ...]) -> str:
    return next((str(info[name]) for name in names if info.get(name)), "")


def _chunks(
    url: ArchiveUrl, system: fsspec.AbstractFileSystem, path: str, start: int
) -> Iterator[bytes]:
    with _explained(url), system.open(path, "rb") as file:
        if start:
            file.seek(start)
        while chunk := file.read(CHUNK):
            yield chunk


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
