"""Set-up stops early with the cure, says what it costs, and hides no missing system package."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from servers.requirements import require

_REPOSITORY = Path(__file__).parents[2]
_PYTHON = f'exec {sys.executable} "$@"'
_PYTHON_WITHOUT_VENV = f'case "$2" in *ensurepip*) exit 1;; esac; {_PYTHON}'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout without .venv, and in bin/ a place for programs that come first on PATH."""
    shutil.copytree(_REPOSITORY / "tools", tmp_path / "tools")
    (tmp_path / "bin").mkdir()
    return tmp_path


def _program(checkout: Path, name: str, script: str) -> Path:
    path = checkout / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def _check(checkout: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{checkout / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [checkout / "tools" / "check_setup.sh"],
        env=os.environ | {"PATH": path, "PYTHON": "", "TORCH_INDEX": ""} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def _free_gigabytes(checkout: Path, free: int) -> None:
    header = "Filesystem 1024-blocks Used Available Capacity Mounted"
    _program(checkout, "df", f"echo '{header}'; echo 'disk 1 1 {free}000000 1% /'")


def test_a_good_computer_is_told_what_it_costs(checkout: Path) -> None:
    _free_gigabytes(checkout, 100)
    done = _check(checkout, PYTHON=sys.executable)
    assert (done.returncode, done.stdout) == (0, f"{sys.executable}\n")
    assert "downloads about" in done.stderr
    assert "minutes" in done.stderr


def test_an_old_python_is_refused(checkout: Path) -> None:
    old = _program(checkout, "python-old", "exit 1")  # what the version question answers there
    done = _check(checkout, PYTHON=str(old))
    assert done.returncode == 1
    assert "no Python 3.11 or newer" in done.stderr
    assert "make setup PYTHON=" in done.stderr


def test_a_python_without_venv_is_refused_with_the_cure(checkout: Path) -> None:
    bare = _program(checkout, "bare", _PYTHON_WITHOUT_VENV)
    done = _check(checkout, PYTHON=str(bare))
    assert done.returncode == 1
    assert "apt-get install python3-venv" in done.stderr


def test_a_python_without_venv_is_passed_over_for_one_with(checkout: Path) -> None:
    _free_gigabytes(checkout, 100)
    _program(checkout, "python3.13", _PYTHON_WITHOUT_VENV)
    _program(checkout, "python3.12", _PYTHON)
    assert _check(checkout).stdout == f"{checkout / 'bin' / 'python3.12'}\n"


@pytest.mark.skipif(sys.platform == "darwin", reason="PyTorch brings no CUDA there")
def test_a_small_disk_takes_only_the_small_pytorch(checkout: Path) -> None:
    _free_gigabytes(checkout, 8)
    whole = _check(checkout, PYTHON=sys.executable)
    assert whole.returncode == 1
    assert "TORCH_INDEX" in whole.stderr
    assert _check(checkout, PYTHON=sys.executable, TORCH_INDEX="file:///index").returncode == 0


def test_missing_system_packages_are_named_with_the_line_to_install_them(checkout: Path) -> None:
    done = subprocess.run(
        [require("bash", "bash"), _REPOSITORY / "tools" / "system_deps.sh", "--check"],
        env={"PATH": str(checkout / "bin")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "apt-get install --no-install-recommends" in done.stdout
    assert "chromium" in done.stdout


def test_a_missing_program_skips_its_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install .*some-package"):
        require("no-such-program", "some-package")


def test_in_ci_a_missing_program_fails_its_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt-get install .*some-package"):
        require("no-such-program", "some-package")


def test_shell_scripts_are_clean() -> None:
    scripts = [*(_REPOSITORY / "tools").glob("*.sh"), _REPOSITORY / ".ci" / "run"]
    shellcheck = require("shellcheck", "shellcheck")
    done = subprocess.run([shellcheck, *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
