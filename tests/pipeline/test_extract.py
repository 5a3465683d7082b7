"""extract: whatever comes in, what is stored is a tar, its index and a manifest; or nothing."""

import gzip
import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from hashlib import md5, sha256
from pathlib import Path

import pytest

from infra.failure import Cause, Failure
from infra.stores import Store
from model.errors import InputError
from model.indexed_tar import TarReader, index_tar
from pipeline.download.checksums import OFFICIAL, OfficialArchive
from pipeline.download.fetch import Retry
from pipeline.stages.extract import Archive, extract, local_tar, read_archive_index
from servers.file_server import FileServer
from servers.rgw import RGW

FILES = {
    "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt": b"2007_000032\n",
    "VOCdevkit/VOC2012/JPEGImages/2007_000032.jpg": bytes(range(256)) * 300,
    "VOCdevkit/VOC2012/SegmentationClass/2007_000032.png": b"mask",
}


def pack(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


TAR = pack(FILES)
OTHER = pack(FILES | {"more.txt": b"more"})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FileServer() as server:
        server.files["/voc.tar"] = TAR
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def local(tmp_path: Path) -> Path:
    path = tmp_path / "voc.tar"
    path.write_bytes(TAR)
    return path


def contents(archive: Archive, store: Store, spool: Path) -> dict[str, bytes]:
    """Every member of an archive, read by offset as later stages do it."""
    with TarReader(local_tar(archive, store, spool)) as reader:
        return {
            member.name: reader.read(member.offset, member.size)
            for member in read_archive_index(archive, store, spool)
        }


def keys(store: Store) -> set[str]:
    return {entry.key for entry in store.list("")}


def left(spool: Path) -> list[str]:
    """What a run leaves in the spool, locks aside."""
    return [path.name for path in spool.iterdir() if path.suffix != ".lock"]


def assert_refused(url: object, store: Store, spool: Path, message: str) -> None:
    """It is refused in a sentence, and neither store nor spool keep any of it."""
    with pytest.raises(InputError, match=message) as caught:
        extract(str(url), store, spool, retry=Retry(2, 0))
    assert str(caught.value).endswith(".")
    assert keys(store) == set()
    assert left(spool) == []


def test_a_local_tar_is_pointed_at(local: Path, store: Store, spool: Path) -> None:
    archive, reused = extract(str(local), store, spool)
    assert not reused
    assert archive.location == str(local)
    assert local_tar(archive, store, spool) == local
    assert contents(archive, store, spool) == FILES
    assert store.get(archive.tar_key) is None
    assert (archive.sha256, archive.size) == (sha256(TAR).hexdigest(), len(TAR))
    assert archive.members == len(FILES)
    assert left(spool) == []


def test_the_manifest_describes_the_archive(local: Path, store: Store, spool: Path) -> None:
    archive, _ = extract(str(local), store, spool)
    data = store.get(f"archives/{archive.sha256}.json")
    assert data is not None
    assert Archive.model_validate_json(data) == archive


def test_no_photo_is_unpacked(server: FileServer, store: Store, spool: Path) -> None:
    extract(f"{server.url}/voc.tar", store, spool)
    photo = FILES["VOCdevkit/VOC2012/JPEGImages/2007_000032.jpg"]
    found = [path for path in spool.parent.rglob("*") if path.is_file()]
    assert not [path for path in found if path.stat().st_size == len(photo)]
    assert not [path for path in found if path.suffix in (".jpg", ".png")]


@pytest.mark.parametrize("form", ["str", "as_uri", "relative"])
def test_ways_to_name_a_local_tar(
    local: Path, store: Store, spool: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(local.parent)
    extract(str(local), store, spool)
    url = {"str": str(local), "as_uri": local.as_uri(), "relative": local.name}[form]
    assert extract(url, store, spool)[1]


def test_a_remote_tar_moves_into_the_store(server: FileServer, store: Store, spool: Path) -> None:
    archive, reused = extract(f"{server.url}/voc.tar?signature=hunter2", store, spool)
    assert not reused
    assert archive.location == "store"
    assert archive.source == f"{server.url}/voc.tar"
    assert store.get(f"archives/{archive.sha256}.tar") == TAR
    assert local_tar(archive, store, spool) == store.local_path(archive.tar_key)
    assert contents(archive, store, spool) == FILES
    assert left(spool) == []
    assert not [key for key in keys(store) if b"hunter2" in (store.get(key) or b"")]


@pytest.mark.parametrize("members", [1, 3])
def test_gzip_is_unpacked_to_the_same_archive(
    server: FileServer, store: Store, spool: Path, members: int
) -> None:
    step = -(-len(TAR) // members)
    packed = b"".join(gzip.compress(TAR[at : at + step]) for at in range(0, len(TAR), step))
    server.files["/voc.tgz"] = packed
    archive, _ = extract(f"{server.url}/voc.tgz", store, spool)
    assert store.get(archive.tar_key) == TAR
    assert archive.sha256 == sha256(TAR).hexdigest()
    assert archive.source_sha256 == sha256(packed).hexdigest()
    assert contents(archive, store, spool) == FILES
    assert left(spool) == []
    assert extract(f"{server.url}/voc.tgz", store, spool)[1]


def test_a_local_gzip_is_unpacked_into_the_store(local: Path, store: Store, spool: Path) -> None:
    local.write_bytes(gzip.compress(TAR))
    archive, _ = extract(str(local), store, spool)
    assert archive.location == "store"
    local.unlink()
    assert contents(archive, store, spool) == FILES


def test_a_second_run_reads_nothing(server: FileServer, store: Store, spool: Path) -> None:
    first, _ = extract(f"{server.url}/voc.tar", store, spool)
    server.pause_at = 0  # whoever wanted the bytes again would wait for ever
    again, reused = extract(f"{server.url}/voc.tar", store, spool)
    assert (again, reused) == (first, True)
    assert server.bytes_served == len(TAR)


def test_a_second_run_does_not_read_a_local_tar(local: Path, store: Store, spool: Path) -> None:
    """Reading is reported as it goes on."""
    read: list[float] = []
    first, _ = extract(str(local), store, spool, report=lambda done, _total: read.append(done))
    assert read[-1] == local.stat().st_size
    read.clear()
    again = extract(str(local), store, spool, report=lambda done, _total: read.append(done))
    assert again == (first, True)
    assert read == []


def test_other_bytes_under_the_old_date_are_noticed(local: Path, store: Store, spool: Path) -> None:
    extract(str(local), store, spool)
    dates = local.stat()
    with local.open("r+b") as file:
        file.write(b"?")
    os.utime(local, ns=(dates.st_atime_ns, dates.st_mtime_ns))
    with pytest.raises(InputError, match="not a tar"):
        extract(str(local), store, spool)


def test_a_changed_local_tar_is_extracted_again(local: Path, store: Store, spool: Path) -> None:
    before, _ = extract(str(local), store, spool)
    local.write_bytes(OTHER)
    with pytest.raises(InputError, match="changed or removed after it was indexed"):
        local_tar(before, store, spool)
    after, reused = extract(str(local), store, spool)
    assert not reused
    assert after.sha256 == sha256(OTHER).hexdigest()
    assert "more.txt" in contents(after, store, spool)


def test_a_local_tar_that_changes_while_it_is_read(local: Path, store: Store, spool: Path) -> None:
    with pytest.raises(InputError, match="changed while it was read"):
        extract(str(local), store, spool, report=lambda done, total: os.utime(local, (1, 1)))
    assert keys(store) == set()


def test_a_changed_remote_is_extracted_again(server: FileServer, store: Store, spool: Path) -> None:
    extract(f"{server.url}/voc.tar", store, spool)
    server.files["/voc.tar"] = OTHER
    archive, reused = extract(f"{server.url}/voc.tar", store, spool)
    assert not reused
    assert "more.txt" in contents(archive, store, spool)


@pytest.mark.parametrize("suffix", ["tar", "json", "index.jsonl"])
def test_what_the_store_lost_is_extracted_again(
    server: FileServer, store: Store, spool: Path, suffix: str
) -> None:
    archive, _ = extract(f"{server.url}/voc.tar", store, spool)
    store.delete(f"archives/{archive.sha256}.{suffix}")
    again, reused = extract(f"{server.url}/voc.tar", store, spool)
    assert (again, reused) == (archive, False)
    assert contents(again, store, spool) == FILES


def test_a_damaged_memory_is_no_obstacle(local: Path, store: Store, spool: Path) -> None:
    extract(str(local), store, spool)
    (note,) = [key for key in keys(store) if key.startswith("archives/urls/")]
    store.put(note, b'{"version"')
    assert extract(str(local), store, spool)[1] is False


def test_the_same_archive_from_elsewhere(
    server: FileServer, local: Path, store: Store, spool: Path
) -> None:
    """The tar that was only pointed at goes away; the one that was fetched is stored."""
    pointed_at, _ = extract(str(local), store, spool)
    local.unlink()
    fetched, reused = extract(f"{server.url}/voc.tar", store, spool)
    assert not reused
    assert fetched.sha256 == pointed_at.sha256
    assert contents(fetched, store, spool) == FILES


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
    "climbing": (pack({"../a": b"1"}), r"holds '\.\./a', a name that climbs out"),
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
    assert_refused(tmp_path, store, spool, "is not a file")
    assert_refused("http://127.0.0.1:1/voc.tar", store, spool, "cannot be reached")


def test_a_gzip_bomb_is_refused(local: Path, store: Store, spool: Path) -> None:
    local.write_bytes(gzip.compress(pack({"bomb.jpg": bytes(30 << 20)})))
    assert local.stat().st_size < 100_000
    with pytest.raises(InputError, match="larger than 1,000,000 bytes"):
        extract(str(local), store, spool, max_bytes=1_000_000)
    assert left(spool) == []


def test_no_room_to_unpack_keeps_the_download(
    server: FileServer, store: Store, spool: Path
) -> None:
    """The disk is too small for the tar by a limit on file sizes, and then it is not."""
    packed = gzip.compress(pack({"a.bin": os.urandom(60_000), "b.bin": bytes(9 << 20)}))
    server.files["/voc.tgz"] = packed
    command = [sys.executable, "-c", FULL, f"{server.url}/voc.tgz", store.url, str(spool)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "cannot be written (File too large); free some space" in said
    assert {Path(name).suffix for name in left(spool)} == {".part", ".version"}
    archive, _ = extract(f"{server.url}/voc.tgz", store, spool)
    assert archive.members == 2
    assert server.bytes_served == len(packed) + 1


FULL = """
import resource, sys
from pathlib import Path
from infra.stores import Store
from model.errors import InputError
from pipeline.stages.extract import extract

resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    extract(sys.argv[1], Store.open(sys.argv[2]), Path(sys.argv[3]))
except InputError as error:
    print(error)
"""

RUN = """
import sys
from pathlib import Path
from infra.stores import Store
from pipeline.stages.extract import extract

url, store, spool = sys.argv[1:]
archive, _ = extract(
    url, Store.open(store), Path(spool), report=lambda done, total: print(int(done), flush=True)
)
print(Path("/proc/self/status").read_text())
"""


def test_a_killed_run_goes_on(server: FileServer, store: Store, spool: Path) -> None:
    server.files["/voc.tar"] = large = pack(FILES | {"large.bin": os.urandom(8 << 20)})
    server.pause_at = 5 << 20
    command = [sys.executable, "-c", RUN, f"{server.url}/voc.tar", store.url, str(spool)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        next(line for line in child.stdout if int(line) >= 4 << 20)
        child.send_signal(signal.SIGKILL)
    assert keys(store) == set()
    server.pause_at = None
    archive, _ = extract(f"{server.url}/voc.tar", store, spool)
    assert store.get(archive.tar_key) == large
    assert server.bytes_served < len(large) + (2 << 20)


def peak_kilobytes(url: str, store: Store, spool: Path) -> int:
    """The most memory a run ever had; what getrusage says would include the forking parent's."""
    command = [sys.executable, "-c", RUN, url, store.url, str(spool)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(said[said.index("VmHWM:") + 1])


def zeros(megabytes: int, pack: Callable[[bytes], bytes]) -> Iterator[bytes]:
    """A tar of files of 10 MB, in pieces: each gzip'd on its own, they are a gzip file too."""
    body = pack(bytes(10 << 20))
    for number in range(megabytes // 10):
        entry = tarfile.TarInfo(f"{number}.jpg")
        entry.size = 10 << 20
        yield pack(entry.tobuf())
        yield body
    yield pack(bytes(1024))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
@pytest.mark.parametrize("kind", ["plain", "gzip", "http"])
def test_memory_is_flat(server: FileServer, tmp_path: Path, kind: str) -> None:
    peaks = []
    for megabytes in (30, 300):
        path = tmp_path / f"{megabytes}.tar"
        with path.open("wb") as file:
            file.writelines(zeros(megabytes, gzip.compress if kind == "gzip" else bytes))
        url = str(path)
        if kind == "http":
            server.files[f"/{path.name}"] = path.read_bytes()
            url = f"{server.url}/{path.name}"
        store = Store.open(str(tmp_path / f"store-{megabytes}"))
        peaks.append(peak_kilobytes(url, store, tmp_path / f"spool-{megabytes}"))
    assert peaks[1] - peaks[0] < 40 << 10, peaks


def test_two_runs_at_once_read_it_once(server: FileServer, store: Store, spool: Path) -> None:
    server.files["/voc.tar"] = pack(FILES | {"large.bin": bytes(4 << 20)})
    found: list[tuple[Archive, bool]] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(extract(f"{server.url}/voc.tar", store, spool))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reused for _, reused in found) == [False, True, True]
    assert server.bytes_served == len(server.files["/voc.tar"])


def test_an_index_that_lost_lines_is_refused(local: Path, store: Store, spool: Path) -> None:
    archive, _ = extract(str(local), store, spool)
    index = store.get(archive.index_key) or b""
    store.put(archive.index_key, b"".join(index.splitlines(keepends=True)[:-1]))
    with pytest.raises(Failure, match="lists 2 of 3 members") as caught:
        read_archive_index(archive, store, spool)
    assert caught.value.cause is Cause.CORRUPT


def test_a_tar_that_was_cut_in_the_store_is_refused(
    server: FileServer, store: Store, spool: Path
) -> None:
    archive, _ = extract(f"{server.url}/voc.tar", store, spool)
    os.truncate(local_tar(archive, store, spool), len(TAR) - 1)
    with pytest.raises(Failure, match="is not what was stored") as caught:
        local_tar(archive, store, spool)
    assert caught.value.cause is Cause.CORRUPT


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
    with pytest.raises(Failure, match="is not what was stored") as caught:
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


def test_a_real_archive(real_data: Path, store: Store, spool: Path) -> None:
    path = real_data / "voc2012-subset.tar"
    archive, _ = extract(str(path), store, spool)
    index = read_archive_index(archive, store, spool)
    photo = next(member for member in index if member.name.endswith("2007_000032.jpg"))
    with TarReader(local_tar(archive, store, spool)) as reader, tarfile.open(path) as tar:
        expected = tar.extractfile(photo.name)
        assert expected is not None
        assert reader.read(photo.offset, photo.size) == expected.read()
