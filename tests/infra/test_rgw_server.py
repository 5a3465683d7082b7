"""The S3 server that the store's tests stand on is a real one: TLS and signatures are checked."""

from pathlib import Path

import obstore
import psutil
import pytest
from obstore.exceptions import GenericError, PermissionDeniedError
from obstore.store import S3Store

from servers.rgw import RGW


@pytest.fixture(scope="module")
def bucket(rgw: RGW) -> str:
    return rgw.create_bucket("server-test")


def _store(rgw: RGW, bucket: str, *, secret: str | None = None, trust: bool = True) -> S3Store:
    return S3Store(
        bucket,
        endpoint=rgw.endpoint,
        region="us-east-1",
        access_key_id=rgw.access_key,
        secret_access_key=secret or rgw.secret_key,
        client_options={"root_certificate": rgw.ca_bundle.read_bytes()} if trust else {},
        retry_config={"max_retries": 0},
    )


def test_an_object_comes_back_over_tls(rgw: RGW, bucket: str) -> None:
    store = _store(rgw, bucket)
    content = bytes(range(256)) * 50_000  # 12.8 MB: obstore uploads it in several parts

    obstore.put(store, "there/and/back", content)

    assert obstore.get(store, "there/and/back").bytes() == content
    assert obstore.get_range(store, "there/and/back", start=250, length=10) == content[250:260]


def test_a_wrong_secret_is_refused(rgw: RGW, bucket: str) -> None:
    with pytest.raises(PermissionDeniedError, match="SignatureDoesNotMatch"):
        obstore.put(_store(rgw, bucket, secret="wrong"), "key", b"content")


def test_no_secret_is_refused(rgw: RGW, bucket: str) -> None:
    anonymous = S3Store(
        bucket,
        endpoint=rgw.endpoint,
        skip_signature=True,
        client_options={"root_certificate": rgw.ca_bundle.read_bytes()},
    )
    with pytest.raises(PermissionDeniedError, match="AccessDenied"):
        obstore.put(anonymous, "key", b"content")


def test_without_its_ca_nobody_connects(rgw: RGW, bucket: str) -> None:
    with pytest.raises(GenericError, match="UnknownIssuer"):
        obstore.put(_store(rgw, bucket, trust=False), "key", b"content")


def test_it_leaves_nothing_behind(tmp_path: Path) -> None:
    before = _children()
    with RGW(tmp_path):
        started = _children() - before
        assert {daemon.name() for daemon in started} == {"ceph-mon", "ceph-osd", "radosgw"}

    assert not any(daemon.is_running() for daemon in started)
    assert not tmp_path.exists()


def test_a_start_that_fails_says_why_and_leaves_nothing_behind(tmp_path: Path) -> None:
    before = _children()
    (tmp_path / "osd").mkdir()  # in the way when the monitor already runs
    with pytest.raises(RuntimeError, match=r"File exists(.|\n)*--- mon\.a\.log"), RGW(tmp_path):
        pass

    assert _children() == before
    assert not tmp_path.exists()


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))
