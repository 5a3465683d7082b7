"""A run's log in the store: whole and in order, whoever was cut off where."""

from pathlib import Path

import pytest

from agents import log_of
from infra.failure import Cause, Failure
from infra.log import LogReader, LogWriter
from infra.stores import Store


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """The log file on the machine."""
    return tmp_path / "log.txt"


def _says(disk: Path, text: str) -> None:
    with disk.open("a") as file:
        file.write(text)


def _begins(store: Store, disk: Path) -> LogWriter:
    writer = LogWriter(store, "r", disk)
    writer.go_on()
    return writer


class _Away(Store):
    """Takes nothing, or takes it and dies before it can say so."""

    acts = False

    def put(self, key: str, data: bytes) -> None:
        if self.acts:
            super().put(key, data)
        raise Failure(Cause.STORE, "The store does not answer.")


@pytest.fixture
def away(store: Store, tmp_path: Path) -> _Away:
    return _Away(store.url, tmp_path / "store")


def test_what_could_not_be_sent_is_sent_by_the_next_agent(
    store: Store, away: _Away, disk: Path
) -> None:
    first = _begins(store, disk)
    _says(disk, "one\n")
    first.send()
    _says(disk, "two\n")
    with pytest.raises(Failure):
        _begins(away, disk).send()
    _says(disk, "three\n")
    second = _begins(store, disk)
    _says(disk, "four\n")
    second.send()
    assert log_of(store) == b"one\ntwo\nthree\nfour\n"


@pytest.mark.parametrize("earlier", ["", "elsewhere\n"])
def test_what_arrived_though_nobody_heard_is_not_sent_twice(
    store: Store, away: _Away, disk: Path, earlier: str
) -> None:
    if earlier:
        store.put("runs/r/log/000000000000.txt", earlier.encode())
    away.acts = True
    writer = _begins(away, disk)
    _says(disk, "one\n")
    with pytest.raises(Failure):
        writer.send()
    _says(disk, "two\n")
    _begins(store, disk).send()
    assert log_of(store).decode() == f"{earlier}one\ntwo\n"


def test_who_was_cut_off_in_a_line_does_not_spoil_the_next(store: Store, disk: Path) -> None:
    writer = _begins(store, disk)
    _says(disk, "epoch 1\nepo")
    writer.send()
    here = _begins(store, disk)
    _says(disk, "epoch 2\nep")
    here.send()
    other_disk = disk.with_name("other.txt")
    elsewhere = _begins(store, other_disk)
    _says(other_disk, "epoch 3\n")
    elsewhere.send()
    assert log_of(store) == b"epoch 1\nepo\nepoch 2\nep\nepoch 3\n"


def test_after_an_agent_elsewhere_this_disk_still_gives_what_it_has(
    store: Store, disk: Path
) -> None:
    writer = _begins(store, disk)
    _says(disk, "one\n")
    writer.send()
    _says(disk, "two\n")
    other_disk = disk.with_name("other.txt")
    elsewhere = _begins(store, other_disk)
    _says(other_disk, "other\n")
    elsewhere.send()
    _begins(store, disk).send()
    assert log_of(store) == b"one\nother\ntwo\n"


def test_a_piece_that_the_store_lost_the_end_of_is_completed(store: Store, disk: Path) -> None:
    writer = _begins(store, disk)
    _says(disk, "one\ntwo\n")
    writer.send()
    store.put("runs/r/log/000000000000.txt", b"one\nt")
    _begins(store, disk).send()
    assert log_of(store) == b"one\ntwo\n"


def test_a_power_cut_that_takes_the_end_of_the_file_hides_nothing_new(
    store: Store, disk: Path
) -> None:
    writer = _begins(store, disk)
    _says(disk, "one\ntwo\n")
    writer.send()
    disk.write_text("one\n")
    again = _begins(store, disk)
    _says(disk, "three\n")
    again.send()
    assert log_of(store) == b"one\ntwo\nthree\n"


@pytest.mark.parametrize("note", [None, "", "{"])
def test_without_the_note_the_store_says_how_far_it_was_sent(
    store: Store, disk: Path, note: str | None
) -> None:
    writer = _begins(store, disk)
    for line in ("one\n", "two\n"):
        _says(disk, line)
        writer.send()
    _says(disk, "three\n")
    sent = disk.with_suffix(".sent")
    sent.unlink() if note is None else sent.write_text(note)
    _begins(store, disk).send()
    assert log_of(store) == b"one\ntwo\nthree\n"


def test_a_reader_gets_every_line_once(store: Store, disk: Path) -> None:
    writer, reader = _begins(store, disk), LogReader(store, "r")
    _says(disk, "one\ntw")
    writer.send()
    assert reader.new_lines(last=False) == ["one"]
    _says(disk, "o\nthree")
    writer.send()
    assert reader.new_lines(last=False) == ["two"]
    assert reader.new_lines(last=True) == ["three"]


def test_what_was_said_in_a_long_outage_is_sent_in_parts(
    store: Store, away: _Away, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.log._AT_ONCE", 1000)
    writer = _begins(away, disk)
    _says(disk, "".join(f"{number:09d}\n" for number in range(250)))
    with pytest.raises(Failure):
        writer.send()
    writer = _begins(store, disk)
    writer.send()
    assert [entry.size for entry in store.list("runs/r/log")] == [1000, 1000, 500]
    assert log_of(store) == disk.read_bytes()
