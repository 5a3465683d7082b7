"""Object storage behind the simulated account: real keys and buckets on a real Ceph RGW.

Linode Object Storage is Ceph RGW too. A key that is limited to buckets is a user of its own there,
let into each bucket by the bucket's policy; one without limits is another key of the account, the
user who owns all buckets. As at Linode, a limited key reaches the whole of each bucket it is named
for, and may make new ones. Unlike there it sees in the list of buckets only those that it made,
and they are its own and not the account's.
"""

import json
import secrets
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol
from urllib.parse import quote, urlencode

import boto3
import httpx
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError

from infra.failure import Cause, Failure

Permission = Literal["read_only", "read_write"]

_REGION = "us-east-1"  # any name does: RGW signs with the one that the client says
_SECONDS = 30
_READ = [
    "s3:GetObject",
    "s3:GetBucketLocation",
    "s3:ListBucket",
    "s3:ListBucketMultipartUploads",
    "s3:ListMultipartUploadParts",
]
_WRITE = ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
_ACTIONS = {"read_only": _READ, "read_write": _READ + _WRITE}


class ObjectStorage(Protocol):
    """What a simulated account asks of an S3 server.

    What the server refuses is Failure(BAD_INPUT); where it does not answer, Failure(STORE).
    """

    endpoint: str  # URL

    def create_key(
        self, label: str, access: Sequence[tuple[str, Permission]] | None
    ) -> tuple[str, str]:
        """Make an access key and its secret: for these buckets, or for everything with None."""

    def delete_key(self, access_key: str) -> None:
        """Refuse the key from now on; absent already is a success."""

    def create_bucket(self, label: str) -> None:
        """Make a bucket; one of the account's own that is there already stays as it is."""

    def delete_bucket(self, label: str) -> None:
        """Remove a bucket, which has to be empty; absent already is a success."""


class RadosGateway:
    """Ceph's S3 server, asked through S3 and through its admin API.

    The key is one of the user who owns the buckets. That user needs `--caps=users=*`, and the
    server `admin` among its `rgw enable apis`. ca_bundle: PEM file of the server's CA, where it is
    not one that this computer trusts anyway.
    """

    def __init__(
        self, endpoint: str, access_key: str, secret_key: str, ca_bundle: str | None = None
    ) -> None:
        self.endpoint = endpoint
        self._signature = S3SigV4Auth(Credentials(access_key, secret_key), "s3", _REGION)
        self._http = httpx.Client(
            timeout=_SECONDS, verify=ssl.create_default_context(cafile=ca_bundle), trust_env=False
        )
        self._s3 = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name=_REGION,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            verify=ca_bundle,
            config=Config(
                signature_version="s3v4",
                connect_timeout=_SECONDS,
                read_timeout=_SECONDS,
                # boto's newer default makes RGW refuse a put over TLS.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        self._policies = threading.Lock()  # a policy is read, changed and written back
        answer = self._admin("GET", "/admin/user", {"access-key": access_key})
        if answer.status_code != 200:
            raise Failure(
                Cause.STORE,
                f"The S3 server at {endpoint} does not let this key make others: it has to be Ceph "
                "RGW with the admin API, and the key's user needs `radosgw-admin caps add "
                f"--caps=users=*` ({answer.status_code}).",
            )
        self._account = str(answer.json()["user_id"])

    def create_key(
        self, label: str, access: Sequence[tuple[str, Permission]] | None
    ) -> tuple[str, str]:
        access_key = secrets.token_hex(10).upper()
        if access is None:
            user = {"uid": self._account, "access-key": access_key}
            keys = self._admin("PUT", "/admin/user?key", user, refused=f"the key {label!r}").json()
        else:
            with self._policies:
                policies = {bucket: self._policy(bucket) for bucket, _ in access}
                user = {"uid": access_key, "access-key": access_key, "display-name": label}
                answer = self._admin("PUT", "/admin/user", user, refused=f"the key {label!r}")
                for bucket, permission in access:
                    policies[bucket].append(_statement(access_key, bucket, _ACTIONS[permission]))
                for bucket, statements in policies.items():
                    self._set_policy(bucket, statements)
            keys = answer.json()["keys"]
        return next((access_key, k["secret_key"]) for k in keys if k["access_key"] == access_key)

    def delete_key(self, access_key: str) -> None:
        for user in (self._account, access_key):
            self._admin("DELETE", "/admin/user?key", {"uid": user, "access-key": access_key})
        # Refused where it made buckets: then the user stays as their owner, without a key.
        self._admin("DELETE", "/admin/user", {"uid": access_key})
        if self._admin("GET", "/admin/user", {"access-key": access_key}).status_code == 200:
            raise Failure(Cause.STORE, "The S3 server did not delete the key; try again.")
        with self._policies, _told("the policies of the buckets"):
            for bucket in self._s3.list_buckets()["Buckets"]:
                old = self._policy(bucket["Name"])
                new = [statement for statement in old if statement["Sid"] != access_key]
                if new != old:
                    self._set_policy(bucket["Name"], new)

    def create_bucket(self, label: str) -> None:
        with _told(f"the bucket {label!r}"):
            self._s3.create_bucket(Bucket=label)

    def delete_bucket(self, label: str) -> None:
        with _told(f"the bucket {label!r}", unless="NoSuchBucket"):
            self._s3.delete_bucket(Bucket=label)

    def _policy(self, bucket: str) -> list[dict[str, Any]]:
        """The statements of a bucket's policy, of which one lets the account do everything.

        Without it what another user's key wrote would belong to that user alone.
        """
        with _told(f"the bucket {bucket!r}", unless="NoSuchBucketPolicy"):
            policy = self._s3.get_bucket_policy(Bucket=bucket)["Policy"]
            return list(json.loads(policy)["Statement"])
        return [_statement(self._account, bucket, ["s3:*"])]

    def _set_policy(self, bucket: str, statements: list[dict[str, Any]]) -> None:
        policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
        with _told(f"the bucket {bucket!r}"):
            self._s3.put_bucket_policy(Bucket=bucket, Policy=policy)

    def _admin(
        self, method: str, path: str, query: dict[str, str], *, refused: str | None = None
    ) -> httpx.Response:
        """One call of the admin API; where `refused` names what it is about, it has to succeed.

        Secrets are in answers only, where the server made them: an address is logged by many.
        """
        separator = "&" if "?" in path else "?"
        # RGW checks the signature against %20, not against urlencode's own +.
        url = f"{self.endpoint}{path}{separator}{urlencode(query, quote_via=quote)}"
        request = AWSRequest(method, url)
        self._signature.add_auth(request)
        try:
            answer = self._http.request(method, url, headers=dict(request.headers.items()))
        except httpx.TransportError as error:
            raise _silent(error) from error
        if refused and answer.status_code != 200:
            raise _no(refused, f"HTTP {answer.status_code}")
        return answer


def _statement(user: str, bucket: str, actions: list[str]) -> dict[str, Any]:
    return {
        "Sid": user,
        "Effect": "Allow",
        "Principal": {"AWS": [f"arn:aws:iam:::user/{user}"]},
        "Action": actions,
        "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
    }


@contextmanager
def _told(what: str, *, unless: str | None = None) -> Iterator[None]:
    """Turn what boto raises into a Failure; the error code `unless` is none."""
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code != unless:
            raise _no(what, code) from error
    except BotoCoreError as error:
        raise _silent(error) from error


def _no(what: str, reason: str) -> Failure:
    return Failure(Cause.BAD_INPUT, f"The S3 server refuses {what}: {reason}.")


def _silent(error: Exception) -> Failure:
    return Failure(Cause.STORE, f"The S3 server does not answer ({type(error).__name__}).")
