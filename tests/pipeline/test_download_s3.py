"""s3 archives, from a real server over TLS."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from downloads import DATA, OTHER, get, got
from model.errors import InputError
from pipeline.download.fetch import Retry
from servers.certificates import issue
from servers.file_server import FileServer


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """The file server as an S3 endpoint over TLS: to read an object is to GET it."""
    certificates = issue(tmp_path)
    with FileServer(certificates) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificates.ca))
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "reader")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "word")
        server.files["/bucket/voc.tar"] = DATA * 10
        yield server


def test_s3_is_read_and_gone_on_from(s3: FileServer, spool: Path) -> None:
    s3.cuts = [2_000_000, *[0] * 20]
    with pytest.raises(InputError, match="to go on from there"):
        get("s3://bucket/voc.tar", spool, retry=Retry(1, 0))
    s3.cuts = []
    fetched = get("s3://bucket/voc.tar", spool)
    assert got(fetched) == DATA * 10
    assert s3.requests[-1].start > 1_000_000
    assert fetched is not None
    assert get("s3://bucket/voc.tar", spool, held=fetched.version) is None


def test_s3_parts_of_another_version_are_not_gone_on_from(s3: FileServer, spool: Path) -> None:
    s3.cuts = [2_000_000, *[0] * 20]
    with pytest.raises(InputError):
        get("s3://bucket/voc.tar", spool, retry=Retry(1, 0))
    s3.cuts = []
    s3.files["/bucket/voc.tar"] = OTHER * 10
    assert got(get("s3://bucket/voc.tar", spool)) == OTHER * 10


def test_an_s3_object_that_is_replaced_between_two_requests(s3: FileServer, spool: Path) -> None:
    """The version is that of the first request, and the bytes would be those of the second."""
    s3.after_request = lambda: s3.files.update({"/bucket/voc.tar": OTHER * 10})
    fetched = get("s3://bucket/voc.tar", spool)
    assert got(fetched) == OTHER * 10
    assert fetched is not None
    assert get("s3://bucket/voc.tar", spool, held=fetched.version) is None


def test_s3_errors_are_said(s3: FileServer, spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"s3://bucket/none\.tar does not exist"):
        get("s3://bucket/none.tar", spool)
    s3.statuses = [403]
    with pytest.raises(InputError, match="not open to you; check AWS_ACCESS_KEY_ID"):
        get("s3://bucket/voc.tar", spool)
    monkeypatch.delenv("AWS_CA_BUNDLE")
    with pytest.raises(InputError, match=r"not trusted; for a private .* AWS_CA_BUNDLE"):
        get("s3://bucket/voc.tar", spool)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://127.0.0.1:1")
    with pytest.raises(InputError, match=r"cannot be reached: .*AWS_ENDPOINT_URL"):
        get("s3://bucket/voc.tar", spool)
