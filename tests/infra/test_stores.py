"""The store keeps the same promises as a folder and as a bucket of a real S3 server."""

import hashlib
import os
import resource
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest

from infra.failure import Cause, Failure
from infra.stores import Store
from servers.rgw import RGW


@pytest.fixture(scope="module")
def bucket(rgw: RGW) -> str:
    return rgw.create_bucket("store-test")


@pytest.fixture
def s3(rgw: RGW, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a prefix of the test's own, with the key in the environment."""
    for name, value in rgw.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://{bucket}/{tmp_path.name}"


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "bucket":
        return Store.open(request.getfixturevalue("s3"))
    return Store.open(f"file://{quote(str(tmp_path))}/a%20store/m%C3%BCll")


def test_what_is_put_comes_back(store: Store) -> None:
    store.put("runs/a b/ü.json", b"first")
    store.put("runs/a b/ü.json", b"second")
    store.put("empty", b"")

    assert store.get("runs/a b/ü.json") == b"second"
    assert store.size("runs/a b/ü.json") == 6
    assert store.get("empty") == b""


def test_a_big_file_goes_there_and_back_in_parts(store: Store, tmp_path: Path) -> None:
    content = os.urandom(20 << 20)
    (tmp_path / "big").write_bytes(content)

    store.put_file("datasets/big", tmp_path / "big")
    store.get_file(
        "datasets/big", tmp_path / "new" / "back", sha256=hashlib.sha256(content).hexdigest()
    )

    assert store.size("datasets/big") == len(content)
    assert (tmp_path / "new" / "back").read_bytes() == content
    assert (tmp_path / "big").exists()


def test_an_empty_file_goes_there_and_back(store: Store, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    store.put_file("empty", tmp_path / "empty")
    store.get_file("empty", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b""


def test_a_moved_file_is_there_and_no_longer_here(store: Store, tmp_path: Path) -> None:
    (tmp_path / "shard").write_bytes(b"samples")
    store.put_file("datasets/x/shard", tmp_path / "shard", move=True)
    assert store.get("datasets/x/shard") == b"samples"
    assert not (tmp_path / "shard").exists()


def test_a_file_that_is_not_there_cannot_be_put(store: Store, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store.put_file("key", tmp_path / "gone")
    assert store.get("key") is None


def test_listings_are_sorted_and_keep_to_their_folder(store: Store) -> None:
    for key in ("log/20", "log/3", "log/100", "log2/1", "log/sub/9"):
        store.put(key, key.encode())

    assert [entry.key for entry in store.list("log")] == ["log/100", "log/20", "log/3", "log/sub/9"]
    assert [entry.size for entry in store.list("log/")] == [7, 6, 5, 9]
    assert [entry.key for entry in store.list("")][-1] == "log2/1"


def test_a_listing_may_be_longer_than_one_answer(s3: str, tmp_path: Path) -> None:
    store = Store.open(s3)
    keys = [f"many/{number:04d}" for number in range(1001)]  # S3 answers with 1,000 at most
    for key in keys:
        store.put(key, b"")
    assert [entry.key for entry in store.list("many")] == keys


def test_folders_are_the_names_one_level_down(store: Store) -> None:
    for key in ("runs/b/x/1", "runs/a/1", "runs/file", "other/1"):
        store.put(key, b"")
    assert store.folders("runs") == ("a", "b")
    assert store.folders("runs/a") == ()


def test_deleting_twice_is_no_error(store: Store) -> None:
    store.put("key", b"content")
    store.delete("key")
    store.delete("key")
    assert store.get("key") is None


def test_a_folder_goes_with_its_last_object(store: Store) -> None:
    for key in ("runs/r/checkpoints/1/blob", "runs/r/checkpoints/2/blob"):
        store.put(key, b"")
    store.delete("runs/r/checkpoints/1/blob")
    assert store.folders("runs/r/checkpoints") == ("2",)
    store.delete("runs/r/checkpoints/2/blob")
    assert store.folders("") == ()

    store.put("again", b"")
    assert [entry.key for entry in store.list("")] == ["again"]


def test_nothing_is_absent_without_an_error(store: Store) -> None:
    assert store.get("a/b") is None
    assert store.size("a/b") is None
    assert list(store.list("a")) == []
    assert store.folders("a") == ()
    store.delete("a/b")


def test_a_missing_object_leaves_no_file(store: Store, tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"no runs/x/blob in (file|s3)://") as caught:
        store.get_file("runs/x/blob", tmp_path / "here" / "blob")
    assert caught.value.cause is Cause.STORE
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize("link", [False, True])
def test_a_damaged_object_leaves_the_old_file(store: Store, tmp_path: Path, link: bool) -> None:
    store.put("datasets/abc/shards/0.tar", b"damaged")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "0.tar").write_bytes(b"old")

    with pytest.raises(Failure, match=r"shards/0.tar .* damaged.*delete datasets/abc "):
        store.get_file(
            "datasets/abc/shards/0.tar", tmp_path / "here" / "0.tar", sha256="0" * 64, link=link
        )

    assert [path.name for path in (tmp_path / "here").iterdir()] == ["0.tar"]
    assert (tmp_path / "here" / "0.tar").read_bytes() == b"old"


def test_a_link_costs_no_copy_and_what_is_under_its_name_stays_whole(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    store.put("shard", b"samples")
    (tmp_path / "here").symlink_to(tmp_path / "store" / "shard")  # an earlier link
    store.put("other", b"other")

    store.get_file("other", tmp_path / "here")
    store.get_file("shard", tmp_path / "linked", link=True)

    assert store.get("shard") == b"samples"
    assert (tmp_path / "linked").is_symlink()
    assert (tmp_path / "linked").read_bytes() == b"samples"


@pytest.mark.parametrize("link", [False, True])
def test_many_may_bring_one_object_to_one_place(store: Store, tmp_path: Path, link: bool) -> None:
    content = os.urandom(1 << 20)
    store.put("shard", content)
    here = tmp_path / "here" / "shard"

    def bring(_turn: int) -> bytes:
        store.get_file("shard", here, sha256=hashlib.sha256(content).hexdigest(), link=link)
        return here.read_bytes()

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(bring, range(48))) == {content}
    assert list(here.parent.iterdir()) == [here]


def test_what_is_brought_may_be_read_like_any_new_file(store: Store, tmp_path: Path) -> None:
    store.put("key", b"content")
    store.get_file("key", tmp_path / "brought")
    (tmp_path / "new").touch()
    assert (tmp_path / "brought").stat().st_mode == (tmp_path / "new").stat().st_mode


def test_looking_at_a_store_that_is_not_there_makes_nothing(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "mistyped" / "store"))
    assert store.get("run.json") is None
    assert store.folders("runs") == ()
    assert not (tmp_path / "mistyped").exists()

    store.put("run.json", b"{}")
    assert store.get("run.json") == b"{}"


def test_a_folder_tells_where_its_objects_lie(tmp_path: Path, s3: str) -> None:
    folder = Store.open(str(tmp_path / "store"))
    folder.put("a/b", b"content")
    path = folder.local_path("a/b")
    assert path
    assert path.read_bytes() == b"content"
    assert Store.open(s3).local_path("a/b") is None


def test_both_spellings_of_a_folder_are_one_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = Store.open("a store #1")
    plain.put("key", b"content")
    assert plain.url == (tmp_path / "a store #1").as_uri()
    assert Store.open(plain.url).get("key") == b"content"


@pytest.mark.parametrize("below", ["", "/deeper/still"])
def test_a_path_that_is_a_file_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Failure, match=r"/file is a file; a store is a folder") as caught:
        Store.open(f"{tmp_path}/file{below}")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("url", ["ftp://host/x", "s3:///prefix", "file://host/folder"])
def test_what_is_no_store_is_refused(url: str) -> None:
    with pytest.raises(Failure, match=r"not a store: use file:///") as caught:
        Store.open(url)
    assert caught.value.cause is Cause.STORE


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("~nouser/x", "home directory"),
        ("x" * 300, "File name too long"),
        ("file:///" + "x" * 300, "File name too long"),
        ("file:///a%00b", "null"),
        ("file://[", "Invalid IPv6 URL"),
        ("s3://[", "Invalid IPv6 URL"),
    ],
)
def test_what_cannot_even_be_read_is_refused_with_the_reason(url: str, why: str) -> None:
    with pytest.raises(Failure, match=rf"not a store \(.*{why}.*\): use file:///") as caught:
        Store.open(url)
    assert caught.value.cause is Cause.STORE


def test_a_url_that_cannot_be_read_is_not_repeated_with_its_password() -> None:
    with pytest.raises(Failure, match=r"AWS_SECRET_ACCESS_KEY in the environment"):
        Store.open("s3://somebody:hunter2@[")


def test_a_url_with_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(Failure, match=r"AWS_SECRET_ACCESS_KEY in the environment") as caught:
        Store.open("s3://somebody:hunter2@bucket/prefix")
    assert "hunter2" not in str(caught.value)


def test_s3_without_a_key_is_refused_at_once(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(Failure, match=r"no key for s3://.*set AWS_ACCESS_KEY_ID"):
        Store.open(s3)


def test_a_wrong_secret_is_explained_and_kept(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2-is-wrong")
    with pytest.raises(Failure, match=r"No permission for s3://.*AWS_SECRET_ACCESS_KEY") as caught:
        Store.open(s3).put("key", b"content")
    assert caught.value.cause is Cause.STORE
    assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_a_missing_bucket_is_named(s3: str) -> None:
    with pytest.raises(Failure, match=r"bucket of s3://nowhere/x does not exist; create it") as put:
        Store.open("s3://nowhere/x").put("key", b"content")
    assert put.value.cause is Cause.STORE


def test_a_missing_bucket_is_no_empty_store(s3: str) -> None:
    with pytest.raises(Failure, match=r"bucket of s3://nowhere/x does not exist"):
        list(Store.open("s3://nowhere/x").list("runs"))
    with pytest.raises(Failure, match=r"bucket of s3://nowhere/x does not exist"):
        Store.open("s3://nowhere/x").get("key")


def test_a_server_with_another_certificate_is_not_believed(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE")
    with pytest.raises(Failure, match=r"does not answer as it should"):
        Store.open(s3).put("key", b"content")


def test_an_endpoint_where_nobody_listens_fails_soon(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://127.0.0.1:{port}")
    began = time.monotonic()
    with pytest.raises(Failure, match=r"does not answer as it should") as caught:
        Store.open(s3).get("key")
    assert caught.value.cause is Cause.STORE
    assert time.monotonic() - began < 60  # a bound on patience, not a measurement


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_store_says_so_and_keeps_no_half(full: Path, tmp_path: Path) -> None:
    store = Store.open(str(full / "store"))
    (tmp_path / "big").write_bytes(bytes(3 << 20))
    for move in (False, True):
        with pytest.raises(Failure, match=r"The store is full: .*/key could not") as caught:
            store.put_file("key", tmp_path / "big", move=move)
        assert caught.value.cause is Cause.STORE
    assert (tmp_path / "big").exists()
    assert not [path for path in full.rglob("*") if path.is_file()]


def test_a_full_disk_here_keeps_no_half_file(full: Path, store: Store) -> None:
    store.put("key", bytes(3 << 20))
    with pytest.raises(Failure, match=r"The disk is full: .*/copy could not"):
        store.get_file("key", full / "copy")
    assert list(full.iterdir()) == []


def test_a_file_size_limit_is_told_like_a_full_store(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(Failure, match=r"The store is full"):
            store.put("key", bytes(1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert store.get("key") is None


def test_a_store_without_rights_names_the_cure(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    if as_root := os.geteuid() == 0:  # whom only a read-only disk stops
        mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("root may write anywhere, and cannot mount a read-only disk here")
    try:
        with pytest.raises(Failure, match=r"No permission for file://.*/locked/.*check the folder"):
            Store.open(str(folder / "store")).put("key", b"content")
    finally:
        if as_root:
            subprocess.run(["umount", str(folder)], check=True)
