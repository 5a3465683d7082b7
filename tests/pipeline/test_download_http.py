"""http(s): what is asked for once, what is not asked for again, and what a refusal says."""

from pathlib import Path

import pytest

from downloads import AT_ONCE, DATA, OTHER, get, got
from model.errors import InputError
from pipeline.download.fetch import fetch
from pipeline.download.spool import Room
from pipeline.download.url import ArchiveUrl
from servers.certificates import issue
from servers.file_server import FileServer, Request


@pytest.fixture
def server(server: FileServer) -> FileServer:
    server.files["/voc.tar"] = DATA
    return server


def test_a_download_is_read_once(server: FileServer, spool: Path) -> None:
    assert got(get(f"{server.url}/voc.tar", spool)) == DATA
    assert server.requests == [Request("GET", 0, 200)]


def test_progress_is_reported(server: FileServer, spool: Path) -> None:
    server.files["/voc.tar"] = DATA * 10
    told: list[tuple[float, float | None]] = []
    url = ArchiveUrl.parse(f"{server.url}/voc.tar")
    fetch(url, spool, None, Room(1 << 30), AT_ONCE, lambda *done: told.append(done))
    assert told[0] == (0, len(DATA) * 10)
    assert told[-1] == (len(DATA) * 10, len(DATA) * 10)
    assert len(told) > 3


def test_redirects_are_followed(server: FileServer, spool: Path) -> None:
    server.redirects["/old.tar"] = "/voc.tar"
    assert got(get(f"{server.url}/old.tar", spool)) == DATA


def test_an_answer_without_length_is_read(server: FileServer, spool: Path) -> None:
    server.lengths = False
    assert got(get(f"{server.url}/voc.tar", spool)) == DATA


@pytest.mark.parametrize("conditions", [True, False])
@pytest.mark.parametrize(("etags", "dates"), [(True, True), (True, False), (False, True)])
def test_a_version_that_is_held_is_not_fetched(
    server: FileServer, spool: Path, etags: bool, dates: bool, conditions: bool
) -> None:
    server.etags, server.dates, server.conditions = etags, dates, conditions
    first = get(f"{server.url}/voc.tar", spool)
    assert first is not None
    server.pause_at = 0  # a client that wanted the body would wait for ever
    assert get(f"{server.url}/voc.tar", spool, held=first.version) is None
    assert server.bytes_served == len(DATA)
    assert (server.requests[-1].status == 304) is (etags and conditions)
    assert not list(spool.iterdir())


def test_another_version_than_the_one_held_is_fetched(server: FileServer, spool: Path) -> None:
    first = get(f"{server.url}/voc.tar", spool)
    assert first is not None
    server.files["/voc.tar"] = OTHER
    assert got(get(f"{server.url}/voc.tar", spool, held=first.version)) == OTHER


def test_what_names_no_version_is_always_fetched(server: FileServer, spool: Path) -> None:
    server.etags = server.dates = False
    first = get(f"{server.url}/voc.tar", spool)
    assert first is not None
    server.files["/voc.tar"] = OTHER  # of the same length
    assert got(get(f"{server.url}/voc.tar", spool, held=first.version)) == OTHER


@pytest.mark.parametrize(
    ("status", "message"),
    [(404, "does not exist"), (403, "not open to you"), (418, "answers with status 418")],
)
def test_a_refusal_is_final(server: FileServer, spool: Path, status: int, message: str) -> None:
    server.statuses = [status] * 9
    with pytest.raises(InputError, match=message):
        get(f"{server.url}/voc.tar?signature=hunter2", spool)
    assert len(server.requests) == 1
    assert not list(spool.iterdir())


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/voc.tar?signature=hunter2",
        "http://no-such-host.invalid/voc.tar?signature=hunter2",
        "http://127.0.0.1:99999/voc.tar?signature=hunter2",
        "http://[::1/voc.tar?signature=hunter2",
        "nothing://host/voc.tar?signature=hunter2",
        "memory://nowhere/voc.tar?signature=hunter2",
    ],
)
def test_what_cannot_be_reached_is_said_without_secrets(spool: Path, url: str) -> None:
    with pytest.raises(InputError, match=r"voc\.tar .*\.") as caught:
        get(url, spool)
    assert "hunter2" not in str(caught.value)


def test_redirects_in_a_circle_are_left(server: FileServer, spool: Path) -> None:
    server.redirects["/a.tar"] = "/a.tar"
    with pytest.raises(InputError, match="circles"):
        get(f"{server.url}/a.tar", spool)


def test_the_log_keeps_queries_to_itself(
    server: FileServer, spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG"):
        get(f"{server.url}/voc.tar?signature=hunter2", spool)
    assert "hunter2" not in caplog.text


def test_a_password_in_netrc_is_used(server: FileServer, spool: Path, isolated_home: Path) -> None:
    server.password = "reader:word"
    with pytest.raises(InputError, match="netrc"):
        get(f"{server.url}/voc.tar", spool)
    netrc = isolated_home / ".netrc"
    netrc.write_text("machine 127.0.0.1 login reader password word\n")
    netrc.chmod(0o600)
    assert got(get(f"{server.url}/voc.tar", spool)) == DATA


def test_a_certificate_must_be_trusted(
    tmp_path: Path, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates = issue(tmp_path)
    with FileServer(certificates) as server:
        server.files["/voc.tar"] = DATA
        with pytest.raises(InputError, match=r"certificate of 127\.0\.0\.1 is not trusted"):
            get(f"{server.url}/voc.tar", spool)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))
        assert got(get(f"{server.url}/voc.tar", spool)) == DATA
