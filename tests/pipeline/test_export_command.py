"""`voc-train export`: one file, and a line on what it is."""

import json
import subprocess
from pathlib import Path

import onnx

from commands import COMMAND


def test_export(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "net.onnx"
    done = subprocess.run(
        [COMMAND, "export", weights, "--out", out, "--json"],
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    assert done.stderr == ""  # the exporter's chatter is kept back
    said = json.loads(done.stdout)
    assert said["onnx"] == str(out)
    metadata = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    assert metadata == said["metadata"]
    assert metadata["run_id"] == "test"
