"""What is left of a job's time after an agent, or its whole machine, began again."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.deadline import Deadline, seconds_noted


@dataclass
class Box:
    """A machine's clocks: the one counts from its boot, the other may be wrong."""

    note: Path
    up: float = 100.0
    wall: float = 1_000_000.0

    def deadline(self, seconds: float = 360.0, order: str = "one") -> Deadline:
        """That of an agent that begins now."""
        return Deadline(
            self.note, order, seconds, self.up, monotonic=lambda: self.up, wall=lambda: self.wall
        )

    def works(self, deadline: Deadline, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.up += 1
            self.wall += 1
            deadline.keep()

    def reboots(self, *, down: float = 0.0, off_by: float = 0.0) -> None:
        self.up = 3.0
        self.wall += down + off_by


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path / "deadline.json")


def _left(box: Box, deadline: Deadline) -> float:
    """How many seconds later it has passed."""
    before = box.up
    while not deadline.passed:
        box.up += 1
    return box.up - before


def test_it_passes_after_its_seconds(box: Box) -> None:
    assert _left(box, box.deadline()) == pytest.approx(360, abs=2)


def test_after_a_reboot_there_is_what_was_left(box: Box) -> None:
    box.works(box.deadline(), 100)
    box.reboots()
    assert _left(box, box.deadline()) == pytest.approx(260, abs=7)


def test_the_time_that_the_machine_was_down_counts(box: Box) -> None:
    box.works(box.deadline(), 100)
    box.reboots(down=60)
    assert _left(box, box.deadline()) == pytest.approx(200, abs=7)


@pytest.mark.parametrize("off_by", [-3600.0, -1e6])
def test_a_clock_that_is_set_back_gives_nothing(box: Box, off_by: float) -> None:
    box.works(box.deadline(), 100)
    box.reboots(off_by=off_by)
    assert _left(box, box.deadline()) == pytest.approx(260, abs=7)


def test_a_clock_that_was_wrong_all_the_time_takes_nothing(box: Box) -> None:
    box.wall += 3600
    deadline = box.deadline()
    box.wall -= 3600  # it is set right while the agent works
    box.works(deadline, 100)
    box.reboots()
    assert _left(box, box.deadline()) == pytest.approx(260, abs=7)


def test_no_number_of_reboots_gives_more(box: Box) -> None:
    for _ in range(12):
        box.works(box.deadline(), 31)
        box.reboots()
    assert box.deadline().passed or _left(box, box.deadline()) < 70


def test_time_that_is_over_stays_over(box: Box) -> None:
    box.works(box.deadline(), 370)
    box.reboots()
    assert box.deadline().passed


def test_another_order_has_its_own_time(box: Box) -> None:
    box.works(box.deadline(), 370)
    assert _left(box, box.deadline(60, "another")) == pytest.approx(60, abs=2)


@pytest.mark.parametrize("damaged", ["", "{", '{"order": "one"}', "null"])
def test_a_damaged_note_is_none(box: Box, damaged: str) -> None:
    box.note.write_text(damaged)
    assert seconds_noted(box.note) is None
    assert _left(box, box.deadline()) == pytest.approx(360, abs=2)


def test_a_disk_that_takes_no_note_stops_nothing(box: Box) -> None:
    box.note = box.note / "no folder" / "note"
    box.works(box.deadline(), 10)
    assert seconds_noted(box.note) is None
