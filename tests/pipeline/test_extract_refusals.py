"""extract refuses what is no archive, or not the one that was promised, and keeps none of it."""

import gzip
import os
import re
import subprocess
from hashlib import md5, sha256
from pathlib import Path

import pytest

from archives import FILES, TAR, contents, keys, left
from infra.stores import Store
from model.errors import InputError
from model.indexed_tar import index_tar
from pipeline.download.checksums import OFFICIAL, OfficialArchive
from pipeline.download.fetch import Retry
from pipeline.download.local import must_be_here
from pipeline.download.spool import Room
from pipeline.stages.extract import extract
from servers.file_server import FileServer
from tars import packed


def assert_refused(url: object, store: Store, spool: Path, message: str) -> None:
    """It is refused in a sentence, and neither store nor spool keep any of it."""
    with pytest.raises(InputError, match=message) as caught:
        extract(str(url), store, spool, retry=Retry(2, 0))
    assert str(caught.value).endswith(".")
    assert keys(store) == set()
    assert left(spool) == []


def test_a_right_checksum_is_accepted(server: FileServer, store: Store, spool: Path) -> None:
    """It is that of the bytes as they lie there, gzip'd."""
    server.files["/voc.tgz"] = packed = gzip.compress(TAR)
    url = f"{server.url}/voc.tgz#sha256={sha256(packed).hexdigest()}"
    archive, _ = extract(url, store, spool)
    assert contents(archive, store, spool) == FILES
    assert extract(url, store, spool)[1]


def test_a_wrong_checksum_is_refused(server: FileServer, store: Store, spool: Path) -> None:
    assert_refused(f"{server.url}/voc.tar#sha256={'0' * 64}", store, spool, "wrong checksum")


def test_a_wrong_checksum_is_refused_for_what_is_known(
    server: FileServer, store: Store, spool: Path
) -> None:
    extract(f"{server.url}/voc.tar", store, spool)
    with pytest.raises(InputError, match="wrong checksum"):
        extract(f"{server.url}/voc.tar#sha256={'0' * 64}", store, spool)


def test_a_users_file_is_never_removed(local: Path, store: Store, spool: Path) -> None:
    assert_refused(f"{local}#sha256={'0' * 64}", store, spool, "wrong checksum")
    assert local.read_bytes() == TAR


def test_a_damaged_official_archive_is_refused(
    local: Path, store: Store, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    official = OfficialArchive(len(TAR), md5(TAR).hexdigest())
    monkeypatch.setitem(OFFICIAL, "voc.tar", official)
    damaged = TAR.replace(b"mask", b"mist")
    local.write_bytes(damaged)
    assert_refused(local, store, spool, "wrong checksum: md5")
    local.write_bytes(TAR)
    assert extract(str(local), store, spool)[0].members == len(FILES)


def test_a_checksum_stands_in_for_the_end_mark(local: Path, store: Store, spool: Path) -> None:
    *_, last = index_tar(local)
    cut = TAR[: last.offset + 512]
    local.write_bytes(cut)
    assert_refused(local, store, spool, "truncated")
    archive, _ = extract(f"{local}#sha256={sha256(cut).hexdigest()}", store, spool)
    assert archive.members == len(FILES)


NOT_ARCHIVES = {
    "empty": (b"", "is empty"),
    "text": (b"hello\n" * 1000, "is not a tar archive; give an uncompressed or gzip'd tar"),
    "page": (b"\n<!DOCTYPE html><html>Please log in</html>", "is a web page, not an archive"),
    "zip": (b"PK\x03\x04" + bytes(1000), "is packed as zip; pack it again as tar"),
    "xz": (b"\xfd7zXZ\x00" + bytes(1000), "is packed as xz"),
    "zeros": (bytes(10240), "holds no files"),
    "truncated": (TAR[:5000], "is truncated"),
    "gzip of text": (gzip.compress(b"hello\n" * 1000), "is not a tar archive"),
    "gzip of gzip": (gzip.compress(gzip.compress(TAR)), "is not a tar archive"),
    "gzip of nothing": (gzip.compress(b""), "unpacks to nothing"),
    "truncated gzip": (gzip.compress(TAR)[:-20], "is a truncated gzip file"),
    "damaged gzip": (gzip.compress(TAR) + b"garbage", "is a damaged gzip file"),
    "climbing": (packed({"../a": b"1"}), r"holds '\.\./a', a name that climbs out"),
}


@pytest.mark.parametrize("case", NOT_ARCHIVES)
def test_what_is_no_archive_is_refused(
    server: FileServer, local: Path, store: Store, spool: Path, case: str
) -> None:
    data, message = NOT_ARCHIVES[case]
    server.files["/bad.tar"] = data
    assert_refused(f"{server.url}/bad.tar", store, spool, f"^{server.url}/bad.tar {message}")
    local.write_bytes(data)
    assert_refused(local, store, spool, f"^{local} {message}")
    assert local.read_bytes() == data


def test_what_is_not_there_is_refused(
    server: FileServer, tmp_path: Path, store: Store, spool: Path
) -> None:
    assert_refused(f"{server.url}/none.tar?key=hunter2", store, spool, r"none\.tar does not exist")
    assert_refused(tmp_path / "none.tar", store, spool, r"none\.tar does not exist")
    os.mkfifo(tmp_path / "pipe")
    assert_refused(tmp_path / "pipe", store, spool, "is not a file")
    assert_refused("http://127.0.0.1:1/voc.tar", store, spool, "cannot be reached")


@pytest.mark.parametrize("name", ["photos", "my photos"])
def test_a_folder_is_refused_with_the_command_that_packs_it(
    tmp_path: Path, store: Store, spool: Path, name: str
) -> None:
    folder = tmp_path / name
    for file, data in FILES.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(data)
    for url in (str(folder), folder.as_uri()):
        with pytest.raises(
            InputError, match="is a folder; pack it with .* and give data.tar"
        ) as no:
            must_be_here([url])
        assert_refused(url, store, spool, re.escape(str(no.value)))
    cure = str(no.value).split("`")[1]
    subprocess.run(cure, shell=True, check=True, cwd=tmp_path)
    archive, _ = extract(str(tmp_path / "data.tar"), store, spool)
    assert contents(archive, store, spool) == FILES


def test_a_gzip_bomb_is_refused(local: Path, store: Store, spool: Path) -> None:
    local.write_bytes(gzip.compress(packed({"bomb.jpg": bytes(30 << 20)})))
    assert local.stat().st_size < 100_000
    with pytest.raises(InputError, match="larger than 1,000,000 bytes"):
        extract(str(local), store, spool, room=Room(1_000_000))
    assert left(spool) == []
