"""The journal: every record once, also after a kill in the middle of a line."""

import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.images import decode_mask, decode_photo
from model.journal import Journal, told_once, write_atomically
from tiny import labelled


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / Journal.METRICS).read_text().splitlines()]


def write(out: Path, *steps: int, resume_at: int = 0) -> None:
    with Journal(out, resume_at) as journal:
        for step in steps:
            journal.write("step", step, loss=step / 2)


def test_records_are_readable_at_once(tmp_path: Path) -> None:
    with Journal(tmp_path / "out", 0) as journal:
        journal.write("step", 1, loss=0.5)
        (record,) = records(tmp_path / "out")
    assert record.pop("time") > 1.7e9
    assert record == {"kind": "step", "step": 1, "loss": 0.5}


def test_a_resumed_journal_forgets_what_will_be_done_again(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3, 4, 5)
    write(tmp_path, 4, 5, 6, resume_at=3)
    assert [record["step"] for record in records(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_fresh_start_forgets_everything(tmp_path: Path) -> None:
    write(tmp_path, 0, 1, 2)
    write(tmp_path, 0)
    assert [record["step"] for record in records(tmp_path)] == [0]


@pytest.mark.parametrize("cut", [1, 10, 30])
def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path: Path, cut: int) -> None:
    write(tmp_path, 1, 2, 3)
    path = tmp_path / Journal.METRICS
    path.write_bytes(path.read_bytes()[:-cut])
    write(tmp_path, 3, resume_at=3)
    assert [record["step"] for record in records(tmp_path)] == [1, 2, 3]


def test_finished(tmp_path: Path) -> None:
    with Journal(tmp_path, 0) as journal:
        assert not journal.finished
        journal.write("step", 4)
    with Journal(tmp_path, 4) as journal:
        assert not journal.finished
        journal.write("finish", 4)
    with Journal(tmp_path, 4) as journal:
        assert journal.finished
    with Journal(tmp_path, 2) as journal:
        assert not journal.finished


def test_progress_is_replaced_and_throttled_unless_always(tmp_path: Path) -> None:
    with Journal(tmp_path, 0) as journal:
        journal.progress(step=1)
        journal.progress(always=True, step=2)
        journal.progress(step=3)
    assert json.loads((tmp_path / Journal.PROGRESS).read_bytes()) == {"step": 2}


def test_a_disk_that_takes_nothing_more_leaves_no_file_open(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the full disk."""
    journal = Journal(tmp_path, 0)
    descriptors = len(list(Path("/dev/fd").iterdir()))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="too large"), journal:
            journal.write("step", 1, note="x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(list(Path("/dev/fd").iterdir())) == descriptors - 1


def test_samples(tmp_path: Path) -> None:
    photo, truth = labelled(0, 20, 31)
    prediction = 2 - np.minimum(truth, 2)
    with Journal(tmp_path, 0) as journal:
        journal.save_samples({"a_b": (photo, truth, prediction)}, 12)
    (record,) = records(tmp_path)
    assert (record["kind"], record["step"], record["names"]) == ("samples", 12, ["a_b"])
    folder = tmp_path / "samples"
    np.testing.assert_array_equal(decode_mask((folder / "a_b.truth.png").read_bytes(), ""), truth)
    found = decode_mask((folder / "a_b.00000012.png").read_bytes(), "")
    np.testing.assert_array_equal(found, prediction)
    seen = decode_photo((folder / "a_b.photo.jpg").read_bytes(), "")
    assert np.abs(seen.astype(int) - photo).mean() < 12


def test_samples_of_odd_ids_have_files_of_their_own(tmp_path: Path) -> None:
    names = ("a_b", "a/b", "x" * 244, "像" * 90, ".a")
    pictures = {name: (*labelled(i, 8, 9), labelled(i, 8, 9)[1]) for i, name in enumerate(names)}
    with Journal(tmp_path, 0) as journal:
        journal.save_samples(pictures, 1)
    (record,) = records(tmp_path)
    assert len(set(record["names"])) == len(names)
    assert {path.name for path in (tmp_path / "samples").glob("*.photo.jpg")} == {
        f"{name}.photo.jpg" for name in record["names"]
    }
    assert not [name for name in record["names"] if name.startswith(".")]  # what is hidden stays


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="space"):
        write_atomically(path, b"new and longer")
    assert path.read_bytes() == b"old"


def test_of_what_is_said_twice_the_later_counts() -> None:
    said = [("start", 0), ("step", 1), ("step", 2), ("epoch", 2), ("samples", 2), ("step", 3)]
    said += [("step", 4), ("epoch", 2), ("step", 3), ("finish", 3)]  # from an earlier checkpoint
    lines = [{"kind": kind, "step": step, "n": n} for n, (kind, step) in enumerate(said)]
    data = "\n".join(json.dumps(line) for line in lines).encode() + b'\n{"kind": "st'
    assert [record["n"] for record in told_once(data)] == [0, 1, 2, 7, 8, 9]
    again = b'\n{"kind": "start", "step": 0}\n[]\n{"kind": "else", "step": 1}\n'
    assert told_once(data + again) == [{"kind": "start", "step": 0}]
