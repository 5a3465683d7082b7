"""http(s): one conditional request asks "is it still what I hold?" and "go on from here" at once.

Semantics are those of RFC 9110: If-None-Match (13.1.2), If-Range (13.1.5), Range (14.2).
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from netrc import NetrcParseError
from typing import NoReturn

import httpx

from model.errors import InputError
from pipeline.download.remote import Fingerprint, Interrupted, Opened, Unreachable
from pipeline.download.url import ArchiveUrl

# Seconds; reading is limited per read, so a download may take as long as it keeps moving.
_TIMEOUT = httpx.Timeout(60.0, connect=15.0)

# httpx logs every URL with its query, which may be a signature that opens the bucket.
logging.getLogger("httpx").setLevel(logging.WARNING)


@contextmanager
def open_http(
    url: ArchiveUrl, offset: int, part: Fingerprint | None, held: Fingerprint | None
) -> Iterator[Opened]:
    """Open over http(s); see `open_remote`."""
    headers = {"Accept-Encoding": "identity"}
    if held is not None and held.etag:
        headers["If-None-Match"] = held.etag
    # Only a strong validator promises the same bytes; without one the download starts over.
    if offset and part is not None and (validator := _strong(part.etag) or part.modified):
        headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
    try:
        with (
            httpx.Client(timeout=_TIMEOUT, follow_redirects=True, auth=_netrc()) as client,
            client.stream("GET", url.address, headers=headers) as answer,
        ):
            if held is not None and held.etag and answer.status_code == 304:
                yield Opened(held, 0, ())
                return
            _check_status(url, answer.status_code)
            version, start = _version(answer), _start(answer)
            if start == 0:
                yield Opened(version, 0, answer.iter_raw())
                return
            if part is not None and start == offset and version.same_as(part):
                yield Opened(part, offset, answer.iter_raw())
                return
    except httpx.TooManyRedirects as error:
        raise InputError(f"{url.called} redirects in circles; check the URL.") from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise InputError(f"{url.called} is not a valid URL; check it.") from error
    except httpx.TransportError as error:
        _explain(url, error)
    # The range of another version, or past the end of a shorter one: ask for the whole.
    if offset == 0:
        raise Interrupted("the server sent a part that nobody asked for")
    with open_http(url, 0, None, held) as opened:
        yield opened


def _version(answer: httpx.Response) -> Fingerprint:
    stated = answer.headers.get("Content-Length", "")
    if answer.status_code == 206:
        stated = answer.headers.get("Content-Range", "").rpartition("/")[2]
    return Fingerprint(
        size=int(stated) if stated.isdecimal() else None,
        etag=answer.headers.get("ETag", ""),
        modified=answer.headers.get("Last-Modified", ""),
    )


def _start(answer: httpx.Response) -> int:
    """The byte of the file at which the answer's bytes start; -1 when it holds none of them."""
    if answer.status_code == 200:
        return 0
    stated = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(stated[1]) if stated else -1


def _check_status(url: ArchiveUrl, status: int) -> None:
    if status in (200, 206, 416):
        return
    if status in (408, 425, 429) or status >= 500:
        raise Interrupted(f"the server answered with status {status}")
    if status in (401, 403):
        raise InputError(
            f"{url.called} is not open to you (status {status}); check the URL, or keep the user "
            "and password for its host in ~/.netrc."
        )
    if status in (404, 410):
        raise InputError(f"{url.called} does not exist (status {status}); check the URL.")
    raise InputError(f"{url.called} answers with status {status}; check the URL.")


def _explain(url: ArchiveUrl, error: httpx.TransportError) -> NoReturn:
    said = str(error).rstrip(".") or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in said:
        raise InputError(
            f"The certificate of {url.host} is not trusted ({said.rpartition(': ')[2]}); for a "
            "private certificate authority set SSL_CERT_FILE to its PEM file."
        ) from error
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)):
        raise Unreachable(f"{url.host} does not answer ({said})") from error
    raise Interrupted(f"the connection broke ({said})") from error


def _netrc() -> httpx.NetRCAuth | None:
    try:
        return httpx.NetRCAuth()
    except (OSError, NetrcParseError):
        return None


def _strong(etag: str) -> str:
    return "" if etag.startswith("W/") else etag
