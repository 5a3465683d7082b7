"""What the tests of the commands share: how one is called, and what it said."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

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
