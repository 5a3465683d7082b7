"""How long a command takes before it does anything."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from pairs import Row


def rows(folder: Path) -> Iterator[Row]:
    """Against a Python that does nothing."""
    command = str(Path(sys.executable).with_name("voc-train"))
    environment = os.environ | {"VOC_TRAIN_HOME": str(folder / "home")}

    def runs(*words: str) -> Callable[[], object]:
        return lambda: subprocess.run(
            words, env=environment, stdout=subprocess.DEVNULL, check=True
        ).check_returncode()

    nothing = runs(sys.executable, "-c", "pass")
    for word in ("--help", "status"):
        yield Row(
            f"voc-train {word}", "python -c pass", "seconds over", 0.4, runs(command, word),
            nothing, 11,
        )  # fmt: skip
