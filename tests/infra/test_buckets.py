"""A bucket is made, tried and kept tidy on a real S3 server, and what goes wrong has a cure."""

import json
import socket
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from infra.buckets import (
    BrokenUpload,
    abort_uploads_after,
    broken_uploads,
    clear_broken_uploads,
    ensure_bucket,
    probe,
)
from infra.failure import Cause, Failure
from infra.stores import Store, bucket_of
from servers.rgw import RGW

NOW = timedelta(0)


@pytest.fixture
def name() -> str:
    return f"bucket-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def missing(rgw: RGW, name: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store in a bucket that nobody has made yet."""
    for variable, value in rgw.environment().items():
        monkeypatch.setenv(variable, value)
    return Store.open(f"s3://{name}/deep/store/")


@pytest.fixture
def bucket(rgw: RGW, missing: Store, name: str) -> Store:
    """A store in a bucket of its own, below a prefix."""
    rgw.create_bucket(name)
    return missing


@pytest.fixture
def begin(rgw: RGW, name: str) -> Callable[[str], str]:
    """Begin an upload in parts, as somebody does who then dies; returns its key."""

    def begin(key: str) -> str:
        client = rgw.client()
        upload = client.create_multipart_upload(Bucket=name, Key=key)["UploadId"]
        client.upload_part(Bucket=name, Key=key, UploadId=upload, PartNumber=1, Body=b"part")
        return key

    return begin


@pytest.mark.parametrize(
    ("url", "bucket", "prefix"),
    [
        ("s3://bucket", "bucket", ""),
        ("s3://bucket/", "bucket", ""),
        ("s3://bucket/a/b/", "bucket", "a/b"),
    ],
)
def test_a_store_url_names_bucket_and_prefix(url: str, bucket: str, prefix: str) -> None:
    assert bucket_of(url) == (bucket, prefix)


@pytest.mark.parametrize("url", ["file:///a/folder", "s3:///prefix", "s3://me:hunter2@bucket/x"])
def test_what_is_no_bucket_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(Failure, match=r"is no bucket: use a store like s3://") as caught:
        bucket_of(url)
    assert caught.value.cause is Cause.STORE
    assert "hunter2" not in str(caught.value)


def test_a_missing_bucket_is_made_only_when_asked(missing: Store) -> None:
    with pytest.raises(Failure, match=r"The bucket bucket-\w+ does not exist; create it") as caught:
        ensure_bucket(missing)
    assert caught.value.cause is Cause.STORE
    with pytest.raises(Failure, match=r"does not exist"):
        missing.put("key", b"content")

    assert ensure_bucket(missing, create=True)

    missing.put("key", b"content")
    assert not ensure_bucket(missing, create=True)
    assert missing.get("key") == b"content"


def test_somebody_elses_bucket_is_refused(
    rgw: RGW, bucket: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = rgw.gateway().create_key("stranger", [])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", stranger[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", stranger[1])
    with pytest.raises(Failure, match=r"No permission for the bucket .* that the bucket is yours"):
        ensure_bucket(bucket, create=True)


def test_a_name_that_no_bucket_may_have_is_refused(missing: Store) -> None:
    with pytest.raises(Failure, match=r"X_ is no name for a bucket: use 3 to 63"):
        ensure_bucket(Store.open("s3://X_"), create=True)


def test_a_wrong_secret_is_told_and_kept(bucket: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2-is-wrong")
    with pytest.raises(Failure, match=r"No permission for the bucket .*AWS_SECRET_A") as caught:
        broken_uploads(bucket)
    assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_a_server_that_is_not_there_is_told(
    missing: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://127.0.0.1:{port}")
    with pytest.raises(Failure, match=r"does not answer .*AWS_ENDPOINT_URL") as caught:
        ensure_bucket(missing)
    assert not caught.value.permanent


def test_a_server_with_another_certificate_is_not_believed(
    bucket: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE")
    with pytest.raises(Failure, match=r"SSLError.*AWS_CA_BUNDLE"):
        ensure_bucket(bucket)


def test_a_store_that_works_passes_and_keeps_nothing(bucket: Store, tmp_path: Path) -> None:
    for store in (bucket, Store.open(str(tmp_path / "store"))):
        probe(store)
        assert list(store.list("")) == []


@pytest.mark.parametrize(
    ("denied", "said", "left"),
    [
        ("s3:PutObject", r"^Nothing can be written to s3://", 0),
        ("s3:GetObject", r"^What was written to s3://\S+ cannot be read", 0),
        ("s3:DeleteObject", r"^probe-\w+ in s3://\S+ cannot be deleted; delete it by hand", 1),
    ],
)
def test_the_step_that_fails_is_named(
    rgw: RGW,
    bucket: Store,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    denied: str,
    said: str,
    left: int,
) -> None:
    access_key, secret_key = rgw.gateway().create_key("limited", [(name, "read_write")])
    policy = json.loads(rgw.client().get_bucket_policy(Bucket=name)["Policy"])
    policy["Statement"].append(policy["Statement"][-1] | {"Effect": "Deny", "Action": [denied]})
    rgw.client().put_bucket_policy(Bucket=name, Policy=json.dumps(policy))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret_key)

    with pytest.raises(Failure, match=said) as caught:
        probe(Store.open(bucket.url))

    assert caught.value.permanent
    assert "No permission" in str(caught.value)
    assert rgw.client().list_objects_v2(Bucket=name)["KeyCount"] == left


def _keys(uploads: list[BrokenUpload]) -> list[str]:
    return sorted(upload.key for upload in uploads)


def test_broken_uploads_are_cleared_below_our_folders_only(
    bucket: Store, begin: Callable[[str], str]
) -> None:
    ours = [begin("deep/store/datasets/x/0.tar"), begin("deep/store/runs/r/checkpoints/1/blob")]
    for key in ("backup.tar", "runs/r/blob", "deep/store2/runs/r/blob", "deep/store/other/blob"):
        begin(key)
    bucket.put("runs/r/whole", b"content")

    found = broken_uploads(bucket, NOW)
    assert _keys(found) == ours
    assert [upload.size for upload in found] == [len(b"part")] * 2
    assert _keys(clear_broken_uploads(bucket, NOW)) == ours

    assert broken_uploads(bucket, NOW) == []
    assert bucket.get("runs/r/whole") == b"content"


def test_other_peoples_broken_uploads_stay(
    rgw: RGW, bucket: Store, name: str, begin: Callable[[str], str]
) -> None:
    begin("backup.tar")
    begin("deep/store/runs/r/blob")
    clear_broken_uploads(bucket, NOW)
    left = rgw.client().list_multipart_uploads(Bucket=name)["Uploads"]
    assert [upload["Key"] for upload in left] == ["backup.tar"]


def test_a_store_without_prefix_is_tidied_too(
    bucket: Store, name: str, begin: Callable[[str], str]
) -> None:
    begin("runs/r/blob")
    begin("somebodys/blob")
    assert _keys(clear_broken_uploads(Store.open(f"s3://{name}"), NOW)) == ["runs/r/blob"]


def test_an_upload_that_may_still_run_is_left_alone(
    bucket: Store, begin: Callable[[str], str]
) -> None:
    begin("deep/store/runs/r/blob")
    assert clear_broken_uploads(bucket) == []
    assert _keys(broken_uploads(bucket, NOW)) == ["deep/store/runs/r/blob"]


def test_the_server_is_told_to_abort_by_itself_and_keeps_its_other_rules(
    rgw: RGW, bucket: Store, name: str
) -> None:
    client = rgw.client()
    theirs = {
        "ID": "theirs",
        "Status": "Enabled",
        "Filter": {"Prefix": "logs/"},
        "Expiration": {"Days": 9},
    }
    client.put_bucket_lifecycle_configuration(
        Bucket=name, LifecycleConfiguration={"Rules": [theirs]}
    )

    abort_uploads_after(bucket, 7)
    abort_uploads_after(bucket, 2)

    rules = client.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]
    assert theirs in rules
    assert {
        rule["Filter"]["Prefix"]: rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"]
        for rule in rules
        if rule["ID"] != "theirs"
    } == {
        f"deep/store/{folder}/": 2
        for folder in ("archives", "champions", "datasets", "runs", "splits")
    }


def test_a_bucket_without_rules_gets_ours(rgw: RGW, bucket: Store, name: str) -> None:
    abort_uploads_after(bucket, 2)
    assert len(rgw.client().get_bucket_lifecycle_configuration(Bucket=name)["Rules"]) == 5
