"""What has to be finished is finished, whoever is impatient."""

import os
import signal
import subprocess
import sys

import pytest

from infra.uninterrupted import uninterrupted


def test_result_and_failure_come_through() -> None:
    assert uninterrupted(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        uninterrupted(lambda: 1 // 0)


_PROGRAM = """
import os, sys
from infra.uninterrupted import uninterrupted

def work():
    print("begun", flush=True)
    sys.stdin.readline()
    print("finished", flush=True)
    return 1

try:
    uninterrupted(work)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_an_interrupt_goes_on_only_when_the_work_is_done() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin
    assert child.stdout
    with child:
        assert child.stdout.readline() == "begun\n"
        for _ in range(3):
            os.kill(child.pid, signal.SIGINT)
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.read() == "finished\ninterrupted\n"
    assert child.returncode == 0
