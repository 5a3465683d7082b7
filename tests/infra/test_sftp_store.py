"""A folder behind SSH is a store as any other: the same objects, whole or not at all."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import log_of
from infra.failure import Cause, Failure
from infra.log import LogWriter
from infra.protocol import Result, now
from infra.sftp_store import SFTPStore
from infra.stores import Entry, Store
from servers.sshd import SSHD


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[SSHD]:
    with SSHD(tmp_path / "machine") as machine:
        yield machine


@pytest.fixture
def folder(machine: SSHD) -> Path:
    return machine.home / "a volume"


@pytest.fixture
def store(machine: SSHD, folder: Path) -> Iterator[SFTPStore]:
    store = SFTPStore(machine.connect, str(folder))
    yield store
    store.close()


def test_it_is_named_by_its_place(machine: SSHD, store: SFTPStore, folder: Path) -> None:
    assert store.url == f"sftp://127.0.0.1:{machine.endpoint.port}{folder}"


def test_before_the_first_put_it_is_empty(store: SFTPStore, folder: Path) -> None:
    assert list(store.list("runs")) == []
    assert store.folders("") == ()
    assert store.get("runs/r/spec.json") is None
    assert store.size("runs/r/spec.json") is None
    store.delete("runs/r/spec.json")
    assert not folder.exists()


def test_what_is_put_is_what_a_store_on_the_machine_finds(
    store: SFTPStore, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "blob").write_bytes(b"blob")
    store.put("runs/r/a", b"12")
    store.put_file("runs/r/checkpoints/1/blob", tmp_path / "blob")
    there = Store.open(str(folder))
    assert there.get("runs/r/a") == b"12"
    assert list(there.list("runs")) == list(store.list("runs"))
    assert list(store.list("runs/r")) == [
        Entry("runs/r/a", 2, now()),
        Entry("runs/r/checkpoints/1/blob", 4, now()),
    ]
    store.put("runs/r/a", b"new")
    assert store.get("runs/r/a") == b"new"
    assert store.size("runs/r/a") == 3
    store.put_file("runs/r/b", tmp_path / "blob", move=True)
    assert not (tmp_path / "blob").exists()


def test_models_and_logs_go_through_it(store: SFTPStore, folder: Path, tmp_path: Path) -> None:
    result = Result(exit_code=0, cause=None, message="done", started=now(), ended=now())
    Store.open(str(folder)).write("runs/r/result.json", result)
    assert store.read("runs/r/result.json", Result) == result
    (tmp_path / "log").write_text("a line\n")
    LogWriter(store, "r", tmp_path / "log").send()
    assert log_of(store) == b"a line\n"


def test_unfinished_files_and_empty_folders_are_not_listed(store: SFTPStore, folder: Path) -> None:
    store.put("runs/r/a", b"1")
    (folder / "runs/r/.part-123456").write_text("ours")
    (folder / "runs/r/b#1").write_text("an agent's")
    (folder / "runs/gone/log").mkdir(parents=True)
    assert [entry.key for entry in store.list("runs")] == ["runs/r/a"]
    assert store.folders("runs") == ("r",)
    assert store.folders("") == ("runs",)


def test_an_object_comes_verified_or_not_at_all(store: SFTPStore, tmp_path: Path) -> None:
    store.put("blob", b"content")
    here = tmp_path / "here" / "blob"
    with pytest.raises(Failure, match="is damaged") as caught:
        store.get_file("blob", here, sha256="0" * 64)
    assert caught.value.cause is Cause.CORRUPT
    with pytest.raises(Failure, match=r"There is no none in sftp://") as caught:
        store.get_file("none", here)
    assert caught.value.cause is Cause.STORE
    assert not list(here.parent.iterdir())
    store.get_file("blob", here, sha256=hashlib.sha256(b"content").hexdigest(), link=True)
    assert (here.read_bytes(), here.is_symlink()) == (b"content", False)


def test_what_is_deleted_is_gone(store: SFTPStore) -> None:
    store.put("a", b"1")
    store.delete("a")
    store.delete("a")
    assert store.get("a") is None


def test_keys_stay_inside(store: SFTPStore) -> None:
    for key in ("../secret", "a/../../secret"):
        with pytest.raises(Failure, match="is not the key of an object"):
            store.get(key)


def test_a_machine_that_is_away_for_a_while_is_found_again(machine: SSHD, store: SFTPStore) -> None:
    store.put("a", b"1")
    machine.kill()
    for _ in range(2):  # it was lost, and is not reachable
        with pytest.raises(Failure, match="does not answer") as caught:
            store.get("a")
        assert caught.value.cause is Cause.AGENT_LOST
        assert not caught.value.permanent
    machine.start()
    assert store.get("a") == b"1"


def test_what_the_file_system_there_says_is_said(store: SFTPStore, folder: Path) -> None:
    store.put("a", b"1")
    with pytest.raises(Failure, match=r"a/b does not answer as it should: mkdir: .*exists"):
        store.put("a/b", b"2")
