"""Object storage as the API has it: endpoints, buckets and keys. The data is elsewhere."""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from infra.simulator import catalogue
from infra.simulator.account import Account
from infra.simulator.answers import JSON, Refusal, not_found, stamp
from infra.simulator.operations import Call, Operation, Result
from infra.simulator.things import Thing

if TYPE_CHECKING:  # boto3 comes with it, which costs a second
    from infra.simulator.object_storage import ObjectStorage

_BUCKET = r"(?=.{3,63}$)[a-z0-9]+(?:-[a-z0-9]+)*(?:[.][a-z0-9]+(?:-[a-z0-9]+)*)*"
_REGION = "us-ord"  # where a server that runs here is said to be
_MOST_KEYS = 100
_NO_REGION = "The specified region was not found or does not support Object Storage."


@dataclass(kw_only=True)
class Key(Thing):
    kind = "key"
    type = "obj_access_key"
    url = "object-storage/keys"

    access_key: str
    secret_key: str = field(repr=False)
    limited: bool = False
    access: list[JSON] | None = None
    regions: list[JSON] = field(default_factory=list)

    def view(self) -> JSON:
        return {
            "id": self.id,
            "label": self.label,
            "access_key": self.access_key,
            "secret_key": "[REDACTED]",
            "limited": self.limited,
            "bucket_access": self.access,
            "regions": self.regions,
        }


@dataclass(kw_only=True)
class Bucket(Thing):
    kind = "bucket"
    type = "obj_bucket"
    url = "object-storage/buckets"

    region: str
    endpoint: str
    endpoint_type: str

    def view(self) -> JSON:
        return {
            "hostname": f"{self.label}.{self.endpoint}",
            "label": self.label,
            "created": stamp(self.created),
            "region": self.region,
            "cluster": f"{self.region}-1",
            "size": 0,
            "objects": 0,
            "endpoint_type": self.endpoint_type,
            "s3_endpoint": self.endpoint,
        }


class StorageKeys:
    """Answers for /object-storage; keys open the server's buckets where there is one."""

    def __init__(self, account: Account, server: "ObjectStorage | None") -> None:
        self._account = account
        self._server = server
        self._endpoints = catalogue.endpoints()
        if server:
            mine = {"s3_endpoint": urlsplit(server.endpoint).netloc}
            self._endpoints = [
                row | mine if row["region"] == _REGION else row for row in self._endpoints
            ]

    def close(self) -> None:
        """No key of a simulated account opens anything any longer."""
        for key in self._account.all(Key):
            if self._server and not key.foreign:
                self._server.delete_key(key.access_key)

    def operations(self) -> list[Operation]:
        base, read, write = (
            "/object-storage",
            "object_storage:read_only",
            "object_storage:read_write",
        )
        bucket = f"{base}/buckets/{{region}}/{{label}}"
        return [
            Operation("GET", f"{base}/endpoints", read, lambda call: self._endpoints),
            Operation("GET", f"{base}/quotas", read, self._quotas),
            Operation("GET", f"{base}/buckets", read, self._buckets),
            Operation("POST", f"{base}/buckets", write, self._create_bucket),
            Operation("GET", bucket, read, self._get_bucket),
            Operation("DELETE", bucket, write, self._delete_bucket),
            Operation("GET", f"{base}/keys", read, self._keys),
            Operation("POST", f"{base}/keys", write, self._create_key),
            Operation("GET", f"{base}/keys/{{id:int}}", read, self._get_key),
            Operation("DELETE", f"{base}/keys/{{id:int}}", write, self._delete_key),
        ]

    def _quotas(self, call: Call) -> Result:
        return catalogue.quotas(self._endpoints)

    def _endpoint(self, region: object) -> JSON:
        for row in self._endpoints:
            if row["region"] == region:
                return row
        raise Refusal(_NO_REGION, status=404)

    def _buckets(self, call: Call) -> Sequence[Bucket]:
        return self._account.all(Bucket)

    def _bucket(self, call: Call) -> Bucket:
        region = self._endpoint(call.text("region"))["region"]
        for bucket in self._account.all(Bucket):
            if (bucket.region, bucket.label) == (region, call.text("label")):
                return bucket
        raise not_found()

    def _get_bucket(self, call: Call) -> JSON:
        return self._bucket(call).view()

    def _create_bucket(self, call: Call) -> JSON:
        account, label, now = self._account, call.body.get("label"), self._account.now()
        if not isinstance(label, str) or not re.fullmatch(_BUCKET, label):
            raise Refusal("Bucket name is not valid", "label")
        endpoint = self._endpoint(call.body.get("region"))
        for bucket in account.all(Bucket):
            if (bucket.region, bucket.label) == (endpoint["region"], label):
                return bucket.view()  # one's own again is no error
        bucket = Bucket(
            id=next(account.ids),
            label=label,
            created=now,
            updated=now,
            region=endpoint["region"],
            endpoint=endpoint["s3_endpoint"],
            endpoint_type=endpoint["endpoint_type"],
        )
        if self._server and bucket.region == _REGION:
            self._server.create_bucket(label)
        account.add(bucket)
        return bucket.view()

    def _delete_bucket(self, call: Call) -> JSON:
        bucket = self._bucket(call)
        if self._server and bucket.region == _REGION:
            self._server.delete_bucket(bucket.label)
        self._account.remove(bucket)
        return {}

    def _keys(self, call: Call) -> Sequence[Key]:
        return self._account.all(Key)

    def _get_key(self, call: Call) -> JSON:
        return self._account.find(Key, call.id).view()

    def _create_key(self, call: Call) -> JSON:
        account, body, now = self._account, call.body, self._account.now()
        label = body.get("label")
        if not isinstance(label, str) or not 1 <= len(label) <= 50:
            raise Refusal("Length must be 1-50 characters", "label")
        if len(account.all(Key)) >= _MOST_KEYS:
            raise Refusal("Account Limit reached. Please open a support ticket.")
        access = body.get("bucket_access")
        regions = body.get("regions") or [rule.get("region") for rule in access or []]
        endpoints = [self._endpoint(region) for region in dict.fromkeys(regions)]
        names = [(rule["bucket_name"], rule["permissions"]) for rule in access or []]
        if self._server:
            pair = self._server.create_key(label, None if access is None else names)
        else:
            pair = secrets.token_hex(10).upper(), secrets.token_urlsafe(30)
        key = Key(
            id=next(account.ids),
            label=label,
            created=now,
            updated=now,
            access_key=pair[0],
            secret_key=pair[1],
            limited=access is not None,
            access=None if access is None else [{"cluster": "", **rule} for rule in access],
            regions=[
                {
                    "id": row["region"],
                    "s3_endpoint": row["s3_endpoint"],
                    "endpoint_type": row["endpoint_type"],
                }
                for row in endpoints
            ],
        )
        account.add(key)
        account.log("obj_access_key_create", key)
        # Shown this once.
        return key.view() | {"secret_key": key.secret_key}

    def _delete_key(self, call: Call) -> JSON:
        key = self._account.find(Key, call.id)
        self._account.delete(key, 0, lambda: self._gone(key))
        return {}

    def _gone(self, key: Key) -> None:
        if self._server and not key.foreign:
            self._server.delete_key(key.access_key)
        self._account.remove(key)
