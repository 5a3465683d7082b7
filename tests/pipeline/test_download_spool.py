"""The spool: archives that are too large, disks that are too small, and gzip of every kind."""

import gzip
import subprocess
import sys
import zlib
from hashlib import sha256
from pathlib import Path

import pytest

from downloads import DATA, get, got
from model.errors import InputError
from pipeline.download.spool import NoRoom, Room, SpoolFile, gunzip
from pipeline.download.url import ArchiveUrl
from servers.file_server import FileServer


@pytest.fixture
def server(server: FileServer) -> FileServer:
    server.files["/voc.tar"] = DATA
    return server


def test_too_large_by_its_own_account(server: FileServer, spool: Path) -> None:
    with pytest.raises(InputError, match="larger than 1,000 bytes"):
        get(f"{server.url}/voc.tar", spool, room=Room(1000, 0))
    assert not list(spool.glob("*.part"))


def test_too_large_when_it_does_not_say(server: FileServer, spool: Path) -> None:
    server.lengths = False
    with pytest.raises(InputError, match="larger than 200,000 bytes"):
        get(f"{server.url}/voc.tar", spool, room=Room(200_000, 0))
    assert not list(spool.glob("*.part"))


def test_a_disk_that_is_too_small_is_said_before(server: FileServer, spool: Path) -> None:
    server.pause_at = 0  # a client that wanted the body would wait for ever
    with pytest.raises(NoRoom, match="free some space or choose another folder"):
        get(f"{server.url}/voc.tar", spool, room=Room(1 << 30, 1 << 60))


FULL = """
import resource, sys
from pathlib import Path
from model.errors import InputError
from pipeline.download.fetch import Retry, fetch
from pipeline.download.spool import Room
from pipeline.download.url import ArchiveUrl
from pipeline.progress import silent

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    fetch(ArchiveUrl.parse(sys.argv[1]), Path(sys.argv[2]), None, Room(1 << 30), Retry(), silent)
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
    with SpoolFile(spool / "out", url, Room(limit, 0)) as file:
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
    packed = bytearray(gzip.compress(DATA))
    packed[10] |= 0b110  # the kind of its first block, behind a header of ten bytes
    with pytest.raises(InputError, match="damaged gzip"):
        unpacked(bytes(packed), spool)


def test_a_gzip_bomb_is_stopped_at_the_limit(spool: Path) -> None:
    deflate = zlib.compressobj(9, wbits=31)
    bomb = b"".join(deflate.compress(bytes(1 << 20)) for _ in range(50)) + deflate.flush()
    assert len(bomb) < 60_000
    with pytest.raises(InputError, match="larger than 3,000,000 bytes"):
        unpacked(bomb, spool, limit=3_000_000)
    assert not (spool / "out").exists()
