"""Downloading from a real server that breaks, changes, refuses, or cannot start in the middle."""

import gzip
import random
import re
import signal
import subprocess
import sys
import zlib
from collections.abc import Iterator
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import fsspec
import pytest

from model.errors import InputError
from pipeline.download.checksums import OFFICIAL, OFFICIAL_HOSTS, Checksums, OfficialArchive
from pipeline.download.fetch import Fetched, Retry, fetch
from pipeline.download.remote import Fingerprint
from pipeline.download.spool import Limits, NoRoom, SpoolFile, gunzip
from pipeline.download.url import ArchiveUrl
from pipeline.progress import silent
from servers.certificates import issue
from servers.file_server import FileServer, Request

DATA = random.Random(1).randbytes(300_000)
OTHER = random.Random(2).randbytes(300_000)
ANY_SIZE = Limits(reserve_bytes=0)
AT_ONCE = Retry(tries=5, pause_seconds=0)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FileServer() as server:
        server.files["/voc.tar"] = DATA
        yield server


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


def get(
    url: str,
    spool: Path,
    *,
    held: Fingerprint | None = None,
    limits: Limits = ANY_SIZE,
    retry: Retry = AT_ONCE,
) -> Fetched | None:
    return fetch(ArchiveUrl.parse(url), spool, held, limits, retry, silent)


def got(fetched: Fetched | None) -> bytes:
    """The bytes that came, once it is clear that they were hashed as they are."""
    assert fetched is not None
    data = fetched.path.read_bytes()
    assert fetched.checksums.sha256 == sha256(data).hexdigest()
    return data


def test_a_download_is_read_once(server: FileServer, spool: Path) -> None:
    assert got(get(f"{server.url}/voc.tar", spool)) == DATA
    assert server.requests == [Request("GET", 0, 200)]


def test_progress_is_reported(server: FileServer, spool: Path) -> None:
    server.files["/voc.tar"] = DATA * 10
    told: list[tuple[float, float | None]] = []
    url = ArchiveUrl.parse(f"{server.url}/voc.tar")
    fetch(url, spool, None, Limits(), AT_ONCE, lambda *done: told.append(done))
    assert told[0] == (0, len(DATA) * 10)
    assert told[-1] == (len(DATA) * 10, len(DATA) * 10)
    assert len(told) > 3


def test_redirects_are_followed(server: FileServer, spool: Path) -> None:
    server.redirects["/old.tar"] = "/voc.tar"
    assert got(get(f"{server.url}/old.tar", spool)) == DATA


def test_an_answer_without_length_is_read(server: FileServer, spool: Path) -> None:
    server.lengths = False
    assert got(get(f"{server.url}/voc.tar", spool)) == DATA


def test_a_broken_connection_goes_on_where_it_broke(server: FileServer, spool: Path) -> None:
    """More breaks than tries are fine, as long as each try brings something."""
    server.cuts = [30_000] * 9
    assert got(get(f"{server.url}/voc.tar", spool)) == DATA
    assert server.bytes_served == len(DATA)
    assert [request.status for request in server.requests] == [200] + [206] * 9


def test_a_weak_etag_is_no_ground_to_go_on(server: FileServer, spool: Path) -> None:
    server.weak = True
    server.dates = False
    server.cuts = [100_000]
    assert got(get(f"{server.url}/voc.tar", spool)) == DATA
    assert [request.status for request in server.requests] == [200, 200]


def test_without_etag_the_date_is_enough_to_go_on(server: FileServer, spool: Path) -> None:
    server.etags = False
    server.cuts = [100_000]
    assert got(get(f"{server.url}/voc.tar", spool)) == DATA
    assert server.bytes_served == len(DATA)


def test_a_server_without_ranges_is_read_from_the_start(server: FileServer, spool: Path) -> None:
    server.ranges = False
    server.cuts = [200_000, 100_000]
    assert got(get(f"{server.url}/voc.tar", spool)) == DATA
    assert [request.status for request in server.requests] == [200, 200, 200]


def test_a_server_that_always_stops_at_the_same_byte_is_given_up(
    server: FileServer, spool: Path
) -> None:
    server.ranges = False
    server.cuts = [50_000] * 99
    with pytest.raises(InputError, match="stopped at byte 50,000 and 5 tries brought no more"):
        get(f"{server.url}/voc.tar", spool)
    assert len(server.requests) == 6


def test_a_busy_server_is_asked_again(server: FileServer, spool: Path) -> None:
    server.statuses = [503, 429, 500, 502]
    assert got(get(f"{server.url}/voc.tar", spool)) == DATA


def test_a_later_call_goes_on(server: FileServer, spool: Path) -> None:
    server.cuts = [120_000, 0]
    with pytest.raises(InputError, match="to go on from there"):
        get(f"{server.url}/voc.tar", spool, retry=Retry(1, 0))
    assert got(get(f"{server.url}/voc.tar", spool)) == DATA
    assert server.requests[-1] == Request("GET", 120_000, 206)
    assert server.bytes_served == len(DATA)


def test_a_part_of_another_version_is_not_gone_on_from(server: FileServer, spool: Path) -> None:
    server.cuts = [120_000, 0]
    with pytest.raises(InputError):
        get(f"{server.url}/voc.tar", spool, retry=Retry(1, 0))
    server.files["/voc.tar"] = OTHER
    assert got(get(f"{server.url}/voc.tar", spool)) == OTHER
    assert [request.status for request in server.requests] == [200, 206, 200]


def test_a_part_of_a_longer_version_is_not_gone_on_from(server: FileServer, spool: Path) -> None:
    server.cuts = [120_000, 0]
    with pytest.raises(InputError):
        get(f"{server.url}/voc.tar", spool, retry=Retry(1, 0))
    server.files["/voc.tar"] = OTHER[:50_000]
    assert got(get(f"{server.url}/voc.tar", spool)) == OTHER[:50_000]


def test_a_server_that_ignores_the_condition_of_a_range(server: FileServer, spool: Path) -> None:
    """It sends the end of another file as if it were ours; only its ETag tells."""
    server.cuts = [120_000, 0]
    with pytest.raises(InputError):
        get(f"{server.url}/voc.tar", spool, retry=Retry(1, 0))
    server.files["/voc.tar"] = OTHER
    server.conditions = False
    assert got(get(f"{server.url}/voc.tar", spool)) == OTHER


def test_content_that_changes_between_tries(server: FileServer, spool: Path) -> None:
    server.cuts = [120_000]
    server.after_request = lambda: server.files.update({"/voc.tar": OTHER})
    assert got(get(f"{server.url}/voc.tar", spool)) == OTHER


def test_a_complete_part_costs_one_byte(server: FileServer, spool: Path) -> None:
    """As after a crash between the last byte and the store."""
    get(f"{server.url}/voc.tar", spool)
    assert got(get(f"{server.url}/voc.tar", spool)) == DATA
    assert server.bytes_served == len(DATA) + 1


def test_a_note_that_was_cut_short_starts_over(server: FileServer, spool: Path) -> None:
    server.cuts = [120_000, 0]
    with pytest.raises(InputError):
        get(f"{server.url}/voc.tar", spool, retry=Retry(1, 0))
    (note,) = spool.glob("*.version")
    note.write_text('{"size": 3')
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


KILLED = """
import sys
from pathlib import Path
from pipeline.download.fetch import Retry, fetch
from pipeline.download.spool import Limits
from pipeline.download.url import ArchiveUrl

url, spool = sys.argv[1:]
fetch(
    ArchiveUrl.parse(url), Path(spool), None, Limits(), Retry(),
    lambda done, total: print(int(done), flush=True),
)
"""


def test_a_killed_download_goes_on(server: FileServer, spool: Path) -> None:
    server.files["/voc.tar"] = data = DATA * 20
    server.pause_at = 4 << 20
    command = [sys.executable, "-c", KILLED, f"{server.url}/voc.tar", str(spool)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        reached = next(int(line) for line in child.stdout if int(line) >= 3 << 20)
        child.send_signal(signal.SIGKILL)
    server.pause_at = None
    assert got(get(f"{server.url}/voc.tar", spool)) == data
    assert server.requests[-1].status == 206
    assert server.requests[-1].start >= reached


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


def test_any_fsspec_url_is_read(spool: Path) -> None:
    fsspec.filesystem("memory").pipe("/download/voc.tar", DATA)
    fetched = get("memory://download/voc.tar", spool)
    assert got(fetched) == DATA
    assert fetched is not None
    assert get("memory://download/voc.tar", spool, held=fetched.version) is None
    fsspec.filesystem("memory").pipe("/download/voc.tar", OTHER)
    assert got(get("memory://download/voc.tar", spool, held=fetched.version)) == OTHER


def test_too_large_by_its_own_account(server: FileServer, spool: Path) -> None:
    with pytest.raises(InputError, match="larger than 1,000 bytes"):
        get(f"{server.url}/voc.tar", spool, limits=Limits(1000, 0))
    assert not list(spool.glob("*.part"))


def test_too_large_when_it_does_not_say(server: FileServer, spool: Path) -> None:
    server.lengths = False
    with pytest.raises(InputError, match="larger than 200,000 bytes"):
        get(f"{server.url}/voc.tar", spool, limits=Limits(200_000, 0))
    assert not list(spool.glob("*.part"))


def test_a_disk_that_is_too_small_is_said_before(server: FileServer, spool: Path) -> None:
    server.pause_at = 0  # a client that wanted the body would wait for ever
    with pytest.raises(NoRoom, match="free some space or choose another folder"):
        get(f"{server.url}/voc.tar", spool, limits=Limits(reserve_bytes=1 << 60))


FULL = """
import resource, sys
from pathlib import Path
from model.errors import InputError
from pipeline.download.fetch import Retry, fetch
from pipeline.download.spool import Limits
from pipeline.download.url import ArchiveUrl
from pipeline.progress import silent

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    fetch(ArchiveUrl.parse(sys.argv[1]), Path(sys.argv[2]), None, Limits(), Retry(), silent)
except InputError as error:
    print(error)
"""


def test_a_disk_that_fills_up_keeps_what_has_arrived(server: FileServer, spool: Path) -> None:
    """A limit on the size of files stands in for the full disk: writing fails in the middle."""
    command = [sys.executable, "-c", FULL, f"{server.url}/voc.tar", str(spool)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "cannot be written (File too large); free some space" in said
    served = server.bytes_served
    assert got(get(f"{server.url}/voc.tar", spool)) == DATA
    assert server.requests[-1].status == 206
    assert server.bytes_served < served + len(DATA)


def test_a_spool_without_rights_is_said(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(NoRoom, match="cannot be written"):
        get(f"{server.url}/voc.tar", tmp_path / "missing")


def unpacked(data: bytes, spool: Path, limit: int = 1 << 30) -> bytes:
    source = spool / "source.gz"
    source.write_bytes(data)
    url = ArchiveUrl.parse("https://host/voc.tar.gz")
    with SpoolFile(spool / "out", url, Limits(limit, 0)) as file:
        gunzip(source, file)
    data = (spool / "out").read_bytes()
    assert file.checksums.sha256 == sha256(data).hexdigest()
    return data


@pytest.mark.parametrize("padding", [b"", bytes(700), bytes(3 << 20)])
def test_gzip_of_several_members_is_unpacked(spool: Path, padding: bytes) -> None:
    large = bytes(5 << 20) + DATA
    packed = gzip.compress(large) + gzip.compress(b"") + gzip.compress(b"end") + padding
    assert unpacked(packed, spool) == large + b"end"


@pytest.mark.parametrize("missing", [1, 9, 1000, 299_000])
def test_truncated_gzip_is_refused(spool: Path, missing: int) -> None:
    packed = gzip.compress(DATA)
    with pytest.raises(InputError, match=r"voc\.tar\.gz is a truncated gzip"):
        unpacked(packed[:-missing], spool)


def test_damaged_gzip_is_refused(spool: Path) -> None:
    packed = bytearray(gzip.compress(DATA))
    packed[-6] ^= 1  # in its checksum
    with pytest.raises(InputError, match="damaged gzip"):
        unpacked(bytes(packed), spool)
    with pytest.raises(InputError, match="damaged gzip"):
        unpacked(gzip.compress(DATA) + b"garbage", spool)


def test_a_gzip_bomb_is_stopped_at_the_limit(spool: Path) -> None:
    deflate = zlib.compressobj(9, wbits=31)
    bomb = b"".join(deflate.compress(bytes(1 << 20)) for _ in range(50)) + deflate.flush()
    assert len(bomb) < 60_000
    with pytest.raises(InputError, match="larger than 3,000,000 bytes"):
        unpacked(bomb, spool, limit=3_000_000)
    assert not (spool / "out").exists()


def test_official_checksums_are_torchvisions() -> None:
    """Read from its source: importing it takes seconds."""
    package = find_spec("torchvision")
    assert package is not None
    assert package.origin is not None
    source = (Path(package.origin).parent / "datasets" / "voc.py").read_text()
    published = set(re.findall(r'/([^/"]+\.tar)",.*?"md5": "([0-9a-f]{32})"', source, re.DOTALL))
    assert {(name, official.md5) for name, official in OFFICIAL.items()} <= published


@pytest.mark.parametrize(
    ("url", "data", "verdict"),
    [
        ("https://official.example/voc.tar", b"right", True),
        ("https://official.example/voc.tar", b"other length", None),
        ("https://mirror.example/voc.tar", b"wrong", None),
        ("https://mirror.example/voc.tar", b"right", True),
        ("https://mirror.example/voc.tar", b"somebody's own archive", False),
        ("https://official.example/else.tar", b"wrong", False),
    ],
)
def test_official_names_bind(
    monkeypatch: pytest.MonkeyPatch, url: str, data: bytes, verdict: bool | None
) -> None:
    """The size is that of b"right", and b"wrong" has it too. None: refused."""
    from hashlib import md5

    monkeypatch.setitem(OFFICIAL, "voc.tar", OfficialArchive(5, md5(b"right").hexdigest()))
    monkeypatch.setattr(
        "pipeline.download.checksums.OFFICIAL_HOSTS", OFFICIAL_HOSTS | {"official.example"}
    )
    checksums = Checksums(ArchiveUrl.parse(url))
    checksums.update(data)
    if verdict is None:
        with pytest.raises(InputError, match="wrong checksum: md5"):
            checksums.verify()
    else:
        assert checksums.verify() is verdict


def test_the_given_sha256_binds() -> None:
    digest = sha256(DATA).hexdigest()
    for given, right in ((digest, True), (digest.upper(), True), ("0" * 64, False)):
        checksums = Checksums(ArchiveUrl.parse(f"/data/voc.tar#sha256={given}"))
        checksums.update(DATA)
        if right:
            assert checksums.verify()
        else:
            with pytest.raises(InputError, match=r"/data/voc\.tar has the wrong checksum: sha256"):
                checksums.verify()


@pytest.mark.parametrize(
    "url",
    [
        "https://reader:hunter2@host/voc.tar",
        "https://hunter2@host/voc.tar?a=b",
        "s3://key:hunter2@bucket/voc.tar",
        "simplecache::https://reader:hunter2@host/voc.tar",
    ],
)
def test_passwords_in_urls_are_refused(url: str) -> None:
    with pytest.raises(InputError, match="remove it and keep it in") as caught:
        ArchiveUrl.parse(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["a.tar#sha256=12", "a.tar#sha256=" + "g" * 64, "", "  "])
def test_malformed_urls_are_refused(url: str) -> None:
    with pytest.raises(InputError, match=r"64 hexadecimal|empty"):
        ArchiveUrl.parse(url)


def test_paths_and_file_urls_are_the_same_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "my photos #1?.tar"
    monkeypatch.chdir(tmp_path)
    parsed = [ArchiveUrl.parse(url) for url in (str(path), path.as_uri(), path.name)]
    assert {one.path for one in parsed} == {path}
    assert len({one.key for one in parsed}) == 1
    assert parsed[0].called == str(path)


def test_the_query_is_not_shown() -> None:
    url = ArchiveUrl.parse("https://host/voc.tar?signature=hunter2#sha256=" + "0" * 64)
    assert url.shown == url.called == "https://host/voc.tar"
    assert url.address == "https://host/voc.tar?signature=hunter2"
    assert url.file_name == "voc.tar"
