"""`voc-train lr-find`: the first three stages, a range test, a plot."""

import json
import subprocess
from pathlib import Path

import PIL.Image

from commands import COMMAND
from devkit import devkit


def test_lr_find(tmp_path: Path) -> None:
    archive, out = devkit(tmp_path / "voc.tar"), tmp_path / "plots" / "rates.png"
    options = ["--recipe", "tiny", "--set", "width=2", "--set", "depth=1", "--set", "batch_size=2"]
    options += ["--set", "image_size=16", "--device", "cpu", "--workers", "0", "--steps", "20"]
    done = subprocess.run(
        [COMMAND, "lr-find", "--archive", archive, *options, "--out", out, "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    (line,) = done.stdout.splitlines()
    said = json.loads(line)
    assert said["plot"] == str(out)
    assert said["rates"][0] == 1e-7
    assert said["rates"][0] <= said["steepest"] <= said["rates"][-1]
    stages = [line.split()[0] for line in done.stderr.splitlines() if " done in " in line]
    assert stages == ["extract", "separate", "build-dataset", "lr-find"]
    assert PIL.Image.open(out).size == (1200, 750)
