"""Keys of a simulated account are real keys on a real S3 server, and reach what they should."""

import uuid
from pathlib import Path

import obstore
import pytest
from obstore.exceptions import GenericError, PermissionDeniedError
from obstore.store import S3Store

from infra.failure import Cause, Failure
from infra.linode import Linode
from infra.provider import BucketKey, KeyOrder, Kind
from infra.simulator import Simulator
from infra.simulator.object_storage import RadosGateway
from servers.rgw import RGW

Key = tuple[str, str]


@pytest.fixture(scope="module")
def gateway(rgw: RGW) -> RadosGateway:
    return rgw.gateway()


@pytest.fixture
def bucket(gateway: RadosGateway) -> str:
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    gateway.create_bucket(name)
    return name


def _open(rgw: RGW, bucket: str, key: Key | None = None) -> S3Store:
    access_key, secret_key = key or (rgw.access_key, rgw.secret_key)
    return S3Store(
        bucket,
        endpoint=rgw.endpoint,
        region="us-east-1",
        access_key_id=access_key,
        secret_access_key=secret_key,
        client_options={"root_certificate": rgw.ca_bundle.read_bytes()},
        retry_config={"max_retries": 0},
    )


def _read(store: S3Store, key: str) -> bytes:
    return bytes(obstore.get(store, key).bytes())


def _names(store: S3Store) -> set[str]:
    return {meta["path"] for batch in obstore.list(store) for meta in batch}


def test_a_limited_key_reads_and_writes_its_whole_bucket(
    rgw: RGW, gateway: RadosGateway, bucket: str
) -> None:
    obstore.put(_open(rgw, bucket), "runs/other/spec.json", b"the account's")
    limited = _open(rgw, bucket, gateway.create_key("a run's", [(bucket, "read_write")]))

    big = bytes(12 << 20)  # in several parts
    obstore.put(limited, "runs/mine/blob", big)

    assert _read(limited, "runs/mine/blob") == big
    assert _read(limited, "runs/other/spec.json") == b"the account's"
    obstore.delete(limited, "runs/other/spec.json")
    assert _names(limited) == {"runs/mine/blob"}


def test_what_a_limited_key_wrote_is_the_accounts(
    rgw: RGW, gateway: RadosGateway, bucket: str
) -> None:
    key = gateway.create_key("a run's", [(bucket, "read_write")])
    obstore.put(_open(rgw, bucket, key), "checkpoint", b"weights")
    own = _open(rgw, bucket)
    assert _read(own, "checkpoint") == b"weights"

    gateway.delete_key(key[0])

    assert _read(own, "checkpoint") == b"weights"
    obstore.delete(own, "checkpoint")
    assert _names(own) == set()


def test_a_limited_key_is_refused_elsewhere(rgw: RGW, gateway: RadosGateway, bucket: str) -> None:
    gateway.create_bucket(f"{bucket}-2")  # not even where a name only begins like its own
    obstore.put(_open(rgw, f"{bucket}-2"), "key", b"foreign")
    elsewhere = _open(rgw, f"{bucket}-2", gateway.create_key("k", [(bucket, "read_write")]))

    with pytest.raises(PermissionDeniedError, match="AccessDenied"):
        _read(elsewhere, "key")
    with pytest.raises(PermissionDeniedError, match="AccessDenied"):
        obstore.put(elsewhere, "new", b"content")
    with pytest.raises(PermissionDeniedError, match="AccessDenied"):
        obstore.delete(elsewhere, "key")
    with pytest.raises(GenericError, match="AccessDenied"):  # obstore's word for it in a listing
        _names(elsewhere)
    assert _read(_open(rgw, f"{bucket}-2"), "key") == b"foreign"


def test_a_key_to_read_only_reads(rgw: RGW, gateway: RadosGateway, bucket: str) -> None:
    obstore.put(_open(rgw, bucket), "key", b"content")
    reader = _open(rgw, bucket, gateway.create_key("reader", [(bucket, "read_only")]))

    assert _read(reader, "key") == b"content"
    assert _names(reader) == {"key"}
    with pytest.raises(PermissionDeniedError):
        obstore.put(reader, "key", b"other")
    with pytest.raises(PermissionDeniedError):
        obstore.delete(reader, "key")


def test_several_keys_of_a_bucket_do_not_disturb_each_other(
    rgw: RGW, gateway: RadosGateway, bucket: str
) -> None:
    first = gateway.create_key("first", [(bucket, "read_write")])
    second = gateway.create_key("second", [(bucket, "read_write")])
    obstore.put(_open(rgw, bucket, first), "key", b"content")
    assert _read(_open(rgw, bucket, second), "key") == b"content"

    gateway.delete_key(first[0])

    obstore.put(_open(rgw, bucket, second), "key", b"more")
    assert _read(_open(rgw, bucket), "key") == b"more"


def test_a_key_may_be_for_several_buckets(rgw: RGW, gateway: RadosGateway, bucket: str) -> None:
    gateway.create_bucket(f"{bucket}-2")
    key = gateway.create_key("both", [(bucket, "read_only"), (f"{bucket}-2", "read_write")])
    obstore.put(_open(rgw, f"{bucket}-2", key), "key", b"content")
    with pytest.raises(PermissionDeniedError):
        obstore.put(_open(rgw, bucket, key), "key", b"content")
    assert _names(_open(rgw, bucket, key)) == set()


@pytest.mark.parametrize("limited", [True, False])
def test_a_deleted_key_is_refused_at_once(
    rgw: RGW, gateway: RadosGateway, bucket: str, limited: bool
) -> None:
    key = gateway.create_key("short-lived", [(bucket, "read_write")] if limited else None)
    store = _open(rgw, bucket, key)
    obstore.put(store, "key", b"content")

    gateway.delete_key(key[0])
    gateway.delete_key(key[0])  # absent already is a success

    with pytest.raises(PermissionDeniedError, match="InvalidAccessKeyId"):
        _read(store, "key")
    assert _read(_open(rgw, bucket), "key") == b"content"


def test_a_deleted_key_leaves_nothing_in_the_buckets_policy(
    rgw: RGW, gateway: RadosGateway, bucket: str
) -> None:
    key = gateway.create_key("short-lived", [(bucket, "read_write")])
    s3 = rgw.client()
    assert key[0] in s3.get_bucket_policy(Bucket=bucket)["Policy"]
    gateway.delete_key(key[0])
    assert key[0] not in s3.get_bucket_policy(Bucket=bucket)["Policy"]


def test_a_key_without_limits_reaches_every_bucket(
    rgw: RGW, gateway: RadosGateway, bucket: str
) -> None:
    key = gateway.create_key("everything", None)
    obstore.put(_open(rgw, bucket, key), "key", b"content")
    gateway.create_bucket(f"{bucket}-later")
    obstore.put(_open(rgw, f"{bucket}-later", key), "key", b"content")


def test_a_key_limited_to_nothing_reaches_nothing(
    rgw: RGW, gateway: RadosGateway, bucket: str
) -> None:
    store = _open(rgw, bucket, gateway.create_key("nothing", []))
    with pytest.raises(GenericError, match="AccessDenied"):  # obstore's word for it in a listing
        _names(store)


def test_a_label_may_hold_any_character(rgw: RGW, gateway: RadosGateway, bucket: str) -> None:
    key = gateway.create_key("Schlüssel & more+?=/ 100%", [(bucket, "read_write")])
    obstore.put(_open(rgw, bucket, key), "key", b"content")


def test_no_key_for_a_bucket_that_is_not_there(gateway: RadosGateway) -> None:
    with pytest.raises(Failure, match=r"refuses the bucket 'nowhere': NoSuchBucket") as caught:
        gateway.create_key("k", [("nowhere", "read_write")])
    assert caught.value.cause is Cause.BAD_INPUT


def test_a_bucket_is_made_twice_and_deleted_twice(
    rgw: RGW, gateway: RadosGateway, bucket: str
) -> None:
    obstore.put(_open(rgw, bucket), "key", b"content")
    gateway.create_bucket(bucket)
    assert _names(_open(rgw, bucket)) == {"key"}

    with pytest.raises(Failure, match=r"refuses the bucket .*: BucketNotEmpty"):
        gateway.delete_bucket(bucket)
    obstore.delete(_open(rgw, bucket), "key")
    gateway.delete_bucket(bucket)
    gateway.delete_bucket(bucket)

    with pytest.raises((GenericError, FileNotFoundError), match="NoSuchBucket"):
        obstore.put(_open(rgw, bucket), "key", b"content")


def test_a_key_that_may_not_make_others_is_no_gateway(rgw: RGW, gateway: RadosGateway) -> None:
    access_key, secret_key = gateway.create_key("ordinary", [])
    with pytest.raises(Failure, match=r"does not let this key make others.*caps add") as caught:
        RadosGateway(rgw.endpoint, access_key, secret_key, str(rgw.ca_bundle))
    assert secret_key not in f"{caught.value!r}"


def test_a_server_that_is_not_there_is_told(rgw: RGW) -> None:
    with pytest.raises(Failure, match=r"does not answer") as caught:
        RadosGateway("https://127.0.0.1:9", "access", "a-secret", str(rgw.ca_bundle))
    assert caught.value.cause is Cause.STORE


def test_a_key_from_the_simulated_api_opens_its_bucket_until_it_is_deleted(
    rgw: RGW, gateway: RadosGateway, bucket: str, tmp_path: Path
) -> None:
    with Simulator(tmp_path, machines=False, object_storage=gateway) as simulator:
        environment = simulator.environment()
        linode = Linode(environment["LINODE_TOKEN"], environment["LINODE_URL"])
        made = linode.create(KeyOrder("voc-train-261121-4k2ra-k1", bucket, rgw.endpoint))
        assert isinstance(made, BucketKey)
        store = _open(rgw, bucket, (made.access_key, made.secret_key))
        obstore.put(store, "key", b"content")

        linode.delete(Kind.KEY, made.thing.id)

    with pytest.raises(PermissionDeniedError, match="InvalidAccessKeyId"):
        _read(store, "key")
