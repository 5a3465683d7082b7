"""s3: straight through obstore, which streams; its fsspec adapter asks once for every megabyte."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from infra.stores import s3_options
from model.errors import InputError
from pipeline.download.remote import Fingerprint, Interrupted, Opened, Unreachable
from pipeline.download.spool import CHUNK
from pipeline.download.url import ArchiveUrl


def open_s3(url: ArchiveUrl, offset: int, part: Fingerprint | None) -> Opened:
    """Open an object of a bucket, with the environment's credentials; see `open_remote`."""
    bucket, _, key = url.address.partition("://")[2].partition("/")
    # One more try within a request; the download itself tries for longer.
    options = s3_options() | {"retry_config": {"max_retries": 1}}
    with _explained(url):
        objects = S3Store(bucket, **options)
        version = _version(obstore.head(objects, key))
    start = offset if version.same_as(part) else 0
    return Opened(version, start, _chunks(url, objects, key, version, start))


def _chunks(
    url: ArchiveUrl, objects: S3Store, key: str, version: Fingerprint, start: int
) -> Iterator[bytes]:
    with _explained(url):
        answer = obstore.get(objects, key, options={"range": {"offset": start}} if start else None)
        if not version.same_as(_version(answer.meta)):
            raise Interrupted("it was replaced while it was being opened")
        for chunk in answer.stream(min_chunk_size=CHUNK):
            yield bytes(chunk)


def _version(meta: "obstore.ObjectMeta") -> Fingerprint:
    modified = meta["last_modified"].isoformat()
    return Fingerprint(size=meta["size"], etag=meta["e_tag"] or "", modified=modified)


@contextmanager
def _explained(url: ArchiveUrl) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{url.called} does not exist; check bucket and key.") from error
    except (OSError, BaseError) as error:
        said, _, details = str(error).partition("\n\nDebug source")
        if re.search(r"Unauthenticated|PermissionDenied|AccessDenied|\b40[13]\b", said + details):
            raise InputError(
                f"{url.called} is not open to you; check AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, and what the key may do."
            ) from error
        if re.search(r"certificate|UnknownIssuer", details):
            raise InputError(
                f"The certificate of the host of {url.called} is not trusted; for a private "
                "certificate authority set AWS_CA_BUNDLE to its PEM file."
            ) from error
        if "kind: Connect" in details:
            raise Unreachable("its host does not answer; check AWS_ENDPOINT_URL") from error
        raise Interrupted(said.splitlines()[0][:200] if said else "the connection broke") from error
