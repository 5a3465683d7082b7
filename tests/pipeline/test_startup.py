"""What a command does not need is not imported before it answers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Each of them takes longer to import than all that these commands do.
SLOW = {"boto3", "cv2", "linode_api4", "numpy", "paramiko", "prefect", "torch", "wandb"}

_TELLS = """
import atexit, sys
atexit.register(lambda: print("IMPORTED", *sys.modules))
from pipeline.command import main
main()
"""


@pytest.mark.parametrize("command", ["--help", "run local --help", "status", "runs", "recipes"])
def test_nothing_slow_is_imported_for(command: str, tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-c", _TELLS, *command.split()],
        env=os.environ | {"VOC_TRAIN_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    imported = set(said.partition("IMPORTED")[2].split())
    assert "pipeline.cli" in imported
    assert not SLOW & imported
