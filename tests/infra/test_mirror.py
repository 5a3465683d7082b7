"""A manifest in the store means that its blob is there too, whoever dies and whenever."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from infra.failure import Cause, Failure
from infra.mirror import Mirror
from infra.stores import Store


class Recorded(Store):
    """A real store that remembers what was asked of it, and can be told to fail."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder.as_uri(), folder)
        self.calls: list[tuple[str, str]] = []
        self.failing = ""  # keys that contain this cannot be written
        self.deaf = ""  # those are written, and nobody hears of it

    def put_file(self, key: str, path: Path, *, move: bool = False) -> None:
        if self.failing and self.failing in key:
            raise Failure(Cause.STORE, "away")
        super().put_file(key, path, move=move)
        self.calls.append(("put", key.removeprefix("runs/r/")))
        if self.deaf and self.deaf in key:
            raise Failure(Cause.STORE, "no answer")

    def delete(self, key: str) -> None:
        super().delete(key)
        self.calls.append(("delete", key.removeprefix("runs/r/")))


@pytest.fixture
def store(tmp_path: Path) -> Recorded:
    return Recorded(tmp_path / "store")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def _checkpoint(out: Path, step: str, content: bytes = b"weights") -> Path:
    folder = out / "checkpoints" / step
    folder.mkdir(parents=True)
    (folder / "zz.pt").write_bytes(content)  # a name after the manifest's in any sorting
    sha256 = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({"sha256": sha256}))
    return folder


def _keys(store: Store) -> set[str]:
    return {entry.key.removeprefix("runs/r/") for entry in store.list("runs/r")}


def test_blobs_arrive_before_their_manifests_and_leave_after_them(
    store: Recorded, out: Path
) -> None:
    mirror = Mirror(store, "r", out)
    first = _checkpoint(out, "1")
    mirror.sync()
    shutil.rmtree(first)
    _checkpoint(out, "2")
    mirror.sync()

    assert store.calls == [
        ("put", "checkpoints/1/zz.pt"),
        ("put", "checkpoints/1/manifest.json"),
        ("put", "checkpoints/2/zz.pt"),
        ("put", "checkpoints/2/manifest.json"),
        ("delete", "checkpoints/1/manifest.json"),
        ("delete", "checkpoints/1/zz.pt"),
    ]
    assert _keys(store) == {"checkpoints/2/zz.pt", "checkpoints/2/manifest.json"}


def test_without_its_blob_no_manifest_is_sent(store: Recorded, out: Path) -> None:
    mirror = Mirror(store, "r", out)
    _checkpoint(out, "1")
    store.failing = "zz.pt"
    with pytest.raises(Failure, match="away"):
        mirror.sync()
    assert _keys(store) == set()

    store.failing = ""
    mirror.sync()
    assert _keys(store) == {"checkpoints/1/zz.pt", "checkpoints/1/manifest.json"}


def test_a_manifest_of_which_nobody_heard_leaves_before_its_blob(
    store: Recorded, out: Path
) -> None:
    mirror = Mirror(store, "r", out)
    first = _checkpoint(out, "00000001")
    store.deaf = "manifest.json"
    with pytest.raises(Failure, match="no answer"):
        mirror.sync()
    store.deaf = ""
    shutil.rmtree(first)
    mirror.sync()
    assert _keys(store) == set()
    assert [key for act, key in store.calls if act == "delete"] == [
        "checkpoints/00000001/manifest.json",
        "checkpoints/00000001/zz.pt",
    ]


def test_unfinished_and_hidden_files_stay_here(store: Recorded, out: Path) -> None:
    (out / ".00000002.part").mkdir()
    (out / ".00000002.part" / "checkpoint.pt").write_bytes(b"half")
    (out / "checkpoints" / ".3.part").mkdir(parents=True)
    (out / "checkpoints" / ".3.part" / "manifest.json").write_bytes(b"{}")
    (out / ".metrics.jsonl.part").write_bytes(b"half")
    (out / "passwords").symlink_to("/etc/passwd")
    (out / "progress.json").write_bytes(b"{}")  # goes with the heartbeat
    (out / "metrics.jsonl").write_bytes(b"{}\n")

    Mirror(store, "r", out).sync(last=True)

    assert _keys(store) == {"metrics.jsonl"}


def test_only_what_changed_is_sent_again(store: Recorded, out: Path) -> None:
    mirror = Mirror(store, "r", out)
    (out / "metrics.jsonl").write_bytes(b"1\n")
    (out / "samples").mkdir()
    (out / "samples" / "a.png").write_bytes(b"picture")
    mirror.sync()
    with (out / "metrics.jsonl").open("ab") as metrics:
        metrics.write(b"2\n")
    mirror.sync()
    mirror.sync()

    assert [key for _, key in store.calls] == ["metrics.jsonl", "samples/a.png", "metrics.jsonl"]
    assert store.get("runs/r/metrics.jsonl") == b"1\n2\n"


def test_a_rewrite_of_the_same_length_is_a_change(store: Recorded, out: Path) -> None:
    mirror = Mirror(store, "r", out)
    (out / "metrics.jsonl").write_bytes(b"1\n")
    mirror.sync()
    before = (out / "metrics.jsonl").stat().st_mtime_ns
    (out / "metrics.jsonl").write_bytes(b"2\n")
    os.utime(out / "metrics.jsonl", ns=(before + 1, before + 1))
    mirror.sync()
    assert store.get("runs/r/metrics.jsonl") == b"2\n"


def test_wandb_files_go_at_the_end_only(store: Recorded, out: Path) -> None:
    mirror = Mirror(store, "r", out)
    (out / "wandb" / "run-1").mkdir(parents=True)
    (out / "wandb" / "run-1" / "log.wandb").write_bytes(b"grows")
    mirror.sync()
    assert _keys(store) == set()
    mirror.sync(last=True)
    assert _keys(store) == {"wandb/run-1/log.wandb"}


def test_only_checkpoints_are_forgotten(store: Recorded, out: Path) -> None:
    mirror = Mirror(store, "r", out)
    (out / "metrics.jsonl").write_bytes(b"1\n")
    mirror.sync()
    (out / "metrics.jsonl").unlink()
    mirror.sync()
    assert _keys(store) == {"metrics.jsonl"}


def test_a_file_that_goes_while_we_look_stops_nothing(out: Path, tmp_path: Path) -> None:
    class Slow(Recorded):
        def put_file(self, key: str, path: Path, *, move: bool = False) -> None:
            if key.endswith("1/zz.pt"):  # superseded between the listing and the upload
                shutil.rmtree(path.parent)
            super().put_file(key, path, move=move)

    store = Slow(tmp_path / "store")
    _checkpoint(out, "1")
    _checkpoint(out, "2")
    Mirror(store, "r", out).sync()
    assert _keys(store) == {"checkpoints/2/zz.pt", "checkpoints/2/manifest.json"}


def test_another_computer_gets_back_what_verifies(
    store: Recorded, out: Path, tmp_path: Path
) -> None:
    for step in ("1", "2", "3", "4"):
        _checkpoint(out, step, step.encode())
    (out / "metrics.jsonl").write_bytes(b"1\n")
    (out / "samples").mkdir()
    (out / "samples" / "a.png").write_bytes(b"picture")
    Mirror(store, "r", out).sync()
    store.put("runs/r/checkpoints/2/zz.pt", b"X")  # another byte
    store.put("runs/r/checkpoints/3/manifest.json", b"{}")  # says nothing
    store.delete("runs/r/checkpoints/4/manifest.json")  # the upload was cut short

    there = tmp_path / "there"
    mirror = Mirror(store, "r", there)
    mirror.restore()

    assert [step.name for step in (there / "checkpoints").iterdir()] == ["1"]
    assert (there / "checkpoints" / "1" / "zz.pt").read_bytes() == b"1"
    assert (there / "metrics.jsonl").read_bytes() == b"1\n"
    assert (there / "samples" / "a.png").read_bytes() == b"picture"

    store.calls.clear()
    mirror.sync()  # what does not count goes from the store as well; what does is not sent again
    assert {(what, key) for what, key in store.calls if what == "put"} == {("put", "metrics.jsonl")}
    assert {key for key in _keys(store) if key.startswith("checkpoints")} == {
        "checkpoints/1/zz.pt",
        "checkpoints/1/manifest.json",
    }


def test_a_restore_that_was_cut_short_is_finished(
    store: Recorded, out: Path, tmp_path: Path
) -> None:
    _checkpoint(out, "1", b"one")
    _checkpoint(out, "2", b"two")
    Mirror(store, "r", out).sync()
    there = tmp_path / "there"
    (there / "checkpoints" / "1").mkdir(parents=True)
    (there / "checkpoints" / "1" / "manifest.json").write_bytes(b"{}")

    mirror = Mirror(store, "r", there)
    mirror.restore()
    mirror.sync()

    assert (there / "checkpoints" / "1" / "zz.pt").read_bytes() == b"one"
    assert (there / "checkpoints" / "2" / "zz.pt").read_bytes() == b"two"
    assert len(_keys(store)) == 4


def test_on_the_same_computer_what_is_here_is_newer(store: Recorded, out: Path) -> None:
    _checkpoint(out, "1", b"one")
    _checkpoint(out, "2", b"two")
    (out / "metrics.jsonl").write_bytes(b"1\n")
    Mirror(store, "r", out).sync()
    with (out / "metrics.jsonl").open("ab") as metrics:  # the agent dies, and its job goes on
        metrics.write(b"2\n")
    shutil.rmtree(out / "checkpoints" / "1")
    _checkpoint(out, "1", b"one, but better")

    mirror = Mirror(store, "r", out)
    mirror.restore()
    shutil.rmtree(out / "checkpoints" / "2")  # superseded before the new agent's first look
    mirror.sync()

    assert store.get("runs/r/metrics.jsonl") == b"1\n2\n"
    assert store.get("runs/r/checkpoints/1/zz.pt") == b"one, but better"
    assert not list(store.list("runs/r/checkpoints/2"))
