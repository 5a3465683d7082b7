"""A process group is known again by who leads it, not by its number alone."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.processes import note_group, noted_group


@pytest.fixture
def leader() -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    with subprocess.Popen(command, start_new_session=True) as leader:
        yield leader
        leader.kill()


def test_a_group_is_found_while_its_leader_runs(
    leader: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    note_group(tmp_path / "note", leader.pid)
    assert noted_group(tmp_path / "note") == leader.pid

    leader.kill()
    os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOWAIT)  # it is not reaped yet
    assert noted_group(tmp_path / "note") is None
    leader.wait()
    assert noted_group(tmp_path / "note") is None


def test_a_number_that_another_process_got_is_no_group_of_ours(
    leader: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    note_group(tmp_path / "note", os.getpid())
    _, birth = (tmp_path / "note").read_text().split(maxsplit=1)
    (tmp_path / "note").write_text(f"{leader.pid} {birth}")
    assert noted_group(tmp_path / "note") is None


@pytest.mark.parametrize("text", [None, "", "12", "x y", "-1 -1"])
def test_a_note_that_says_nothing_is_none(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "note").write_text(text)
    assert noted_group(tmp_path / "note") is None
