"""A note is on the disk, under its name, when the writing of it has returned."""

import os
from pathlib import Path

import pytest

from infra.durable import write_durably


def test_what_it_says_and_that_it_is_there_are_both_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    sync = os.fsync

    def fsync(number: int) -> None:
        synced.append(Path(f"/dev/fd/{number}").resolve().name)
        sync(number)

    monkeypatch.setattr(os, "fsync", fsync)
    note = tmp_path / "note"
    for text in ("one", "two"):
        write_durably(note, text)
        assert note.read_text() == text
    assert synced == [".note.new", tmp_path.name] * 2
    assert note.stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.glob(".*"))
