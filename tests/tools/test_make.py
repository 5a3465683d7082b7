"""What make says."""

import subprocess
from pathlib import Path

from servers.requirements import require


def test_help_lists_the_targets_and_fits_a_terminal() -> None:
    said = subprocess.run(
        [require("make", "make"), "--no-print-directory", "help"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert {"make dry-run", "make test", "make clean"} <= {
        line[2:15].strip() for line in said.splitlines()
    }
    assert max(map(len, said.splitlines())) <= 80
