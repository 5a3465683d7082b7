"""The fault harness is worth something only where it fails when the rental is wrong."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra.failure import Failure
from infra.simulator.machine import must_be_possible

ROOT = Path(__file__).parents[2]
MUTANTS = Path(__file__).parent / "mutants"
# Each with a case that must show it.
SHOWN = {
    "intent_after_create": "controller:provider:POST /object-storage/keys#1 killed-after",
    "teardown_skipped_on_exception": "controller:stage:train begins#1 raises",
    "manifest_before_blob": "controller:stage:train ends#1 killed-before",
}


def test_every_mutant_has_a_case() -> None:
    assert {path.stem for path in MUTANTS.glob("*.patch")} == SHOWN.keys()


@pytest.mark.parametrize("mutant", SHOWN)
def test_a_mutant_is_seen(mutant: str, tmp_path: Path) -> None:
    try:
        must_be_possible()
    except Failure as failure:
        pytest.skip(str(failure))
    for room in ("infra", "model", "pipeline", "stackscripts"):
        shutil.copytree(ROOT / room, tmp_path / room)
    patch = ["git", "apply", "--verbose", str(MUTANTS / f"{mutant}.patch")]
    subprocess.run(patch, cwd=tmp_path, check=True, env=os.environ | {"GIT_DIR": os.devnull})
    done = subprocess.run(
        [sys.executable, "-m", "chaos", "--case", SHOWN[mutant]],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT / 'tests/support'}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.splitlines()[-1] == "cases tried: 1 failed: 1"
