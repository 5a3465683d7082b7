"""What the tests of the commands share: how one is called, and what it said."""

import contextvars
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

COMMAND = Path(sys.executable).with_name("voc-train")
RUN = "261121-4k2ra"


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """What stands on standard output, however it was wrapped."""
        return " ".join(self.out.split())


VocTrain = Callable[..., Said]


def home_store() -> Path:
    """The store of whoever names none."""
    return Path(os.environ["VOC_TRAIN_HOME"], "store")


def in_this_process(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[VocTrain]:
    """The command line without a process of its own, which what it sets does not outlive.

    The body of a fixture.
    """
    from pipeline.cli import main

    monkeypatch.setenv("COLUMNS", "80")
    before = {number: signal.getsignal(number) for number in (2, 15, 1)}

    def voc_train(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["voc-train", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            contextvars.copy_context().run(main)
        return Said(int(left.value.code or 0), *capfd.readouterr())

    yield voc_train
    for number, handler in before.items():
        signal.signal(number, handler)
