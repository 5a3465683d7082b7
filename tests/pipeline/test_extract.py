"""extract: whatever comes in, what is stored is a tar and its index."""

import gzip
import os
import tarfile
from hashlib import sha256
from pathlib import Path

import pytest

from archives import FILES, TAR, contents, keys, left
from infra.failure import Cause, Failure
from infra.stores import Store
from model.indexed_tar import TarReader
from pipeline.archive import local_tar, read_archive_index
from pipeline.stages.extract import extract
from servers.file_server import FileServer


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


def test_no_photo_is_unpacked(server: FileServer, store: Store, spool: Path) -> None:
    extract(f"{server.url}/voc.tar", store, spool)
    photo = FILES["VOCdevkit/VOC2012/JPEGImages/2007_000032.jpg"]
    found = [path for path in spool.parent.rglob("*") if path.is_file()]
    assert not [path for path in found if path.stat().st_size == len(photo)]
    assert not [path for path in found if path.suffix in (".jpg", ".png")]


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


def test_an_index_that_lost_lines_is_refused(local: Path, store: Store, spool: Path) -> None:
    archive, _ = extract(str(local), store, spool)
    archive = archive.model_copy(update={"index_sha256": None})  # as older versions noted it
    index = store.get(archive.index_key) or b""
    store.put(archive.index_key, b"".join(index.splitlines(keepends=True)[:-1]))
    with pytest.raises(Failure, match="lists 2 of 3 members; delete it and run again.$") as caught:
        read_archive_index(archive, store, spool)
    assert caught.value.cause is Cause.CORRUPT


def test_a_tar_that_was_cut_in_the_store_is_refused(
    server: FileServer, store: Store, spool: Path
) -> None:
    archive, _ = extract(f"{server.url}/voc.tar", store, spool)
    os.truncate(local_tar(archive, store, spool), len(TAR) - 1)
    with pytest.raises(
        Failure, match="is not what was stored; delete it and run again.$"
    ) as caught:
        local_tar(archive, store, spool)
    assert caught.value.cause is Cause.CORRUPT


def test_a_real_archive(real_data: Path, store: Store, spool: Path) -> None:
    path = real_data / "voc2012-subset.tar"
    archive, _ = extract(str(path), store, spool)
    index = read_archive_index(archive, store, spool)
    photo = next(member for member in index if member.name.endswith("2007_000032.jpg"))
    with TarReader(local_tar(archive, store, spool)) as reader, tarfile.open(path) as tar:
        expected = tar.extractfile(photo.name)
        assert expected is not None
        assert reader.read(photo.offset, photo.size) == expected.read()
