"""extract again: nothing is read twice, unless it changed or was lost."""

import os
import threading
from hashlib import sha256
from pathlib import Path

import pytest

from archives import FILES, OTHER, TAR, contents, keys
from infra.stores import Store
from model.errors import InputError
from pipeline.archive import Archive, local_tar
from pipeline.stages.extract import extract
from servers.file_server import FileServer
from tars import packed


@pytest.mark.parametrize("form", ["str", "as_uri", "relative"])
def test_ways_to_name_a_local_tar(
    local: Path, store: Store, spool: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(local.parent)
    extract(str(local), store, spool)
    url = {"str": str(local), "as_uri": local.as_uri(), "relative": local.name}[form]
    assert extract(url, store, spool)[1]


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
    with pytest.raises(InputError, match="changed or removed .*; put it back, or run again"):
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


@pytest.mark.parametrize("suffix", ["tar", "index.jsonl"])
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


def test_two_runs_at_once_read_it_once(server: FileServer, store: Store, spool: Path) -> None:
    server.files["/voc.tar"] = packed(FILES | {"large.bin": bytes(4 << 20)})
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
