"""extract with a bucket as store or source, on a real S3 server."""

import os
from pathlib import Path

import pytest

from archives import FILES, OTHER, TAR, contents, left
from infra.failure import Cause, Failure
from infra.stores import Store
from pipeline.archive import local_tar
from pipeline.stages.extract import extract
from servers.file_server import FileServer
from servers.rgw import RGW


@pytest.fixture
def bucket(rgw: RGW, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name, value in rgw.environment().items():
        monkeypatch.setenv(name, value)
    return Store.open(f"s3://{rgw.create_bucket('extract-' + os.urandom(4).hex())}/voc")


def test_a_bucket_gets_the_tar_and_the_spool_keeps_it(
    server: FileServer, bucket: Store, spool: Path
) -> None:
    archive, _ = extract(f"{server.url}/voc.tar", bucket, spool)
    assert bucket.get(archive.tar_key) == TAR
    assert local_tar(archive, bucket, spool) == spool / f"{archive.sha256}.tar"
    assert extract(f"{server.url}/voc.tar", bucket, spool)[1]
    bucket.delete(archive.tar_key)
    assert contents(archive, bucket, spool) == FILES


def test_a_local_tar_goes_to_a_bucket_and_is_read_where_it_is(
    local: Path, bucket: Store, spool: Path
) -> None:
    archive, _ = extract(str(local), bucket, spool)
    assert bucket.get(archive.tar_key) == TAR
    assert local_tar(archive, bucket, spool) == local
    local.unlink()
    assert contents(archive, bucket, spool) == FILES


def test_another_computer_fetches_the_tar_and_checks_it(
    server: FileServer, bucket: Store, tmp_path: Path
) -> None:
    archive, _ = extract(f"{server.url}/voc.tar", bucket, tmp_path / "here")
    assert contents(archive, bucket, tmp_path / "there") == FILES
    bucket.put(archive.tar_key, TAR.replace(b"mask", b"mist"))
    assert contents(archive, bucket, tmp_path / "there") == FILES  # its copy was checked
    cure = f"is damaged: .*delete {archive.tar_key} there and run again"
    with pytest.raises(Failure, match=cure) as caught:
        local_tar(archive, bucket, tmp_path / "elsewhere")
    assert caught.value.cause is Cause.CORRUPT
    assert left(tmp_path / "elsewhere") == []


def test_an_archive_in_a_bucket_is_extracted(bucket: Store, store: Store, spool: Path) -> None:
    bucket.put("in/voc.tar", TAR)
    url = f"{bucket.url}/in/voc.tar"
    archive, _ = extract(url, store, spool)
    assert contents(archive, store, spool) == FILES
    assert extract(url, store, spool)[1]
    bucket.put("in/voc.tar", OTHER)
    assert "more.txt" in contents(extract(url, store, spool)[0], store, spool)
