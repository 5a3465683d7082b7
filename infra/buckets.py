"""The bucket behind a store: made, tried and kept tidy through boto3; data never goes this way.

Key, endpoint and certificate authority come from the same variables as the store's.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from infra.failure import Cause, Failure
from infra.stores import Store, bucket_of

# Everything big that we write lies in one of these; a bucket may hold other people's things too.
FOLDERS = ("archives", "splits", "datasets", "runs", "champions")
_RULE = "voc-train aborts uploads in"  # how our lifecycle rules are named, with the folder

_CONFIG = Config(
    signature_version="s3v4",
    connect_timeout=5,
    read_timeout=60,
    retries={"mode": "standard", "total_max_attempts": 4},
    # boto's newer default makes Ceph RGW, which is what Linode runs, refuse a put over TLS.
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
)


@dataclass(frozen=True)
class BrokenUpload:
    """An upload in parts that was never finished: no listing shows it, yet it is billed."""

    key: str  # in the bucket, with the store's prefix
    upload: str
    begun: datetime  # UTC
    size: int  # bytes that have arrived


def ensure_bucket(store: Store, *, create: bool = False) -> bool:
    """See that the store's bucket is there; with `create` make it if it is missing.

    Returns whether it was made. Failure(STORE) where it is missing, or somebody else's.
    """
    bucket, _ = bucket_of(store.url)
    client = _client()
    try:
        client.head_bucket(Bucket=bucket)
        return False
    except ClientError as error:
        if _code(error) != "404" or not create:
            raise _failure(bucket, error) from error
    except BotoCoreError as error:
        raise _failure(bucket, error) from error
    with _explained(bucket):
        client.create_bucket(Bucket=bucket)
    return True


def probe(store: Store) -> None:
    """Write, read and delete a small object, as a run will; the Failure says which did not work."""
    key, content = f"probe-{secrets.token_hex(8)}", secrets.token_bytes(64)
    with _step(f"Nothing can be written to {store.url}"):
        store.put(key, content)
    try:
        with _step(f"What was written to {store.url} cannot be read"):
            if store.get(key) != content:
                raise Failure(Cause.CORRUPT, "It came back as something else.")
    finally:
        with _step(f"{key} in {store.url} cannot be deleted; delete it by hand"):
            store.delete(key)


def broken_uploads(store: Store, older_than: timedelta = timedelta(days=1)) -> list[BrokenUpload]:
    """Uploads below the store's own folders that were begun so long ago and not finished."""
    bucket, _ = bucket_of(store.url)
    before = datetime.now(UTC) - older_than  # real time, as the server has it
    client, found = _client(), []
    with _explained(bucket):
        pages = client.get_paginator("list_multipart_uploads")
        for prefix in _prefixes(store):
            for page in pages.paginate(Bucket=bucket, Prefix=prefix):
                found += [one for one in page.get("Uploads", ()) if one["Initiated"] <= before]
    return [
        BrokenUpload(
            key := one["Key"],
            upload := one["UploadId"],
            one["Initiated"].astimezone(UTC),
            _arrived(client, bucket, key, upload),
        )
        for one in found
    ]


def _arrived(client: Any, bucket: str, key: str, upload: str) -> int:
    """Bytes of an upload's parts."""
    size = 0
    with _explained(bucket, unless="NoSuchUpload"):  # finished or aborted meanwhile
        for page in client.get_paginator("list_parts").paginate(
            Bucket=bucket, Key=key, UploadId=upload
        ):
            size += sum(part["Size"] for part in page.get("Parts", ()))
    return size


def clear_broken_uploads(
    store: Store, older_than: timedelta = timedelta(days=1)
) -> list[BrokenUpload]:
    """Abort what `broken_uploads` finds, which frees its space; returns what is gone.

    Leave `older_than` longer than any upload takes: what is still being written looks the same.
    """
    bucket, _ = bucket_of(store.url)
    found = broken_uploads(store, older_than)
    client = _client()
    for one in found:
        with _explained(bucket, unless="NoSuchUpload"):  # finished or aborted meanwhile
            client.abort_multipart_upload(Bucket=bucket, Key=one.key, UploadId=one.upload)
    return found


def abort_uploads_after(store: Store, days: int) -> None:
    """Have the server itself abort broken uploads below the store's folders after so many days.

    Rules that others made stay. Failure(STORE) where the server or the key does not allow it.
    """
    bucket, _ = bucket_of(store.url)
    client = _client()
    ours = [
        {
            "ID": f"{_RULE} {prefix}",
            "Status": "Enabled",
            "Filter": {"Prefix": prefix},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": days},
        }
        for prefix in _prefixes(store)
    ]
    names = [rule["ID"] for rule in ours]
    others: list[dict[str, Any]] = []
    with _explained(bucket, unless="NoSuchLifecycleConfiguration"):
        there = client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
        others = [rule for rule in there if rule.get("ID") not in names]
    with _explained(bucket):
        client.put_bucket_lifecycle_configuration(
            Bucket=bucket, LifecycleConfiguration={"Rules": others + ours}
        )


def _prefixes(store: Store) -> list[str]:
    _, prefix = bucket_of(store.url)
    return [f"{prefix}/{folder}/".lstrip("/") for folder in FOLDERS]


def _client() -> Any:
    # A session of its own: boto's default one remembers the first key for ever. And boto looks for
    # the region under another name than everybody else.
    region = os.environ.get("AWS_REGION", "us-east-1")
    return boto3.Session().client("s3", region_name=region, config=_CONFIG)


@contextmanager
def _step(what: str) -> Iterator[None]:
    try:
        yield
    except Failure as error:
        raise Failure(error.cause, f"{what}. {error}", permanent=error.permanent) from error


@contextmanager
def _explained(bucket: str, *, unless: str | None = None) -> Iterator[None]:
    """Turn what boto raises into one sentence with a cure; the error code `unless` is none."""
    try:
        yield
    except ClientError as error:
        if _code(error) != unless:
            raise _failure(bucket, error) from error
    except BotoCoreError as error:
        raise _failure(bucket, error) from error


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _failure(bucket: str, error: ClientError | BotoCoreError) -> Failure:
    """In our words: what a library says may repeat a request with all its headers."""
    code = _code(error) if isinstance(error, ClientError) else type(error).__name__
    match code:
        case "404" | "NoSuchBucket":
            said = f"The bucket {bucket} does not exist; create it first, or check the name."
        case "403" | "AccessDenied" | "InvalidAccessKeyId" | "SignatureDoesNotMatch":
            said = (
                f"No permission for the bucket {bucket}: check the key in AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY and what it may do, and that the bucket is yours."
            )
        case "BucketAlreadyExists":
            said = f"Somebody else has a bucket named {bucket}; choose another name."
        case "InvalidBucketName":
            said = f"{bucket} is no name for a bucket: use 3 to 63 of a-z, 0-9 and -."
        case _:
            said = (
                f"The server of the bucket {bucket} does not answer as it should ({code}): "
                "check AWS_ENDPOINT_URL and AWS_CA_BUNDLE, or try again."
            )
            return Failure(Cause.STORE, said)
    return Failure(Cause.STORE, said, permanent=True)
