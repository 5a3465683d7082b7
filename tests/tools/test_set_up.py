"""Set-up stops early with the cure, says what it costs, and hides no missing system package."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from servers.requirements import require
from servers.web import Served

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


def _set_up(checkout: Path, torch_index: str = "") -> subprocess.CompletedProcess[str]:
    """The whole set-up, with pip's own index and nobody's settings for pip."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    return subprocess.run(
        [checkout / "tools" / "setup.sh"],
        env=own
        | {
            "PATH": f"{checkout / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHON": sys.executable,
            "TORCH_INDEX": torch_index,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": (checkout / "index").as_uri(),
        },
        capture_output=True,
        text=True,
        check=False,
    )


def _wheel(folder: Path, name: str, *metadata: str) -> Path:
    """An empty package of version 1, as pip installs it."""
    path = folder / f"{name}-1-py3-none-any.whl"
    about = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1", *metadata, ""]
    wheel = ["Wheel-Version: 1.0", "Generator: test", "Root-Is-Purelib: true", "Tag: py3-none-any"]
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}-1.dist-info/METADATA", "\n".join(about))
        file.writestr(f"{name}-1.dist-info/WHEEL", "\n".join([*wheel, ""]))
        file.writestr(f"{name}-1.dist-info/RECORD", "")
    return path


@pytest.fixture
def small_project(checkout: Path) -> Path:
    """A checkout of a project that needs only PyTorch, and an index that has an empty one."""
    _free_gigabytes(checkout, 100)
    for name in ("torch", "torchvision"):
        wheel = _wheel(checkout / "index" / name, name)
        (wheel.parent / "index.html").write_text(f"<a href='{wheel.name}'>{wheel.name}</a>")
    ready_made = _wheel(checkout, "small", "Provides-Extra: dev", "Requires-Dist: torch").name
    (checkout / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (checkout / "backend.py").write_text(
        "import shutil\n"
        "def build_editable(folder, config_settings=None, metadata_directory=None):\n"
        f"    shutil.copy({ready_made!r}, folder)\n"
        f"    return {ready_made!r}\n"
    )
    (checkout / "constraints.txt").write_text("torch==1\ntorchvision==1\n")
    return checkout


@pytest.fixture
def web_index(small_project: Path) -> Iterator[str]:
    """The same index on the web: its host, port and path."""
    handler = partial(SimpleHTTPRequestHandler, directory=small_project)
    with Served(handler) as server:
        yield f"{server.host}/index"


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


def test_an_index_that_fails_is_not_used_again_and_each_failure_names_its_cure(
    small_project: Path,
) -> None:
    nowhere = (small_project / "nowhere").as_uri()
    failed = _set_up(small_project, torch_index=nowhere)
    assert failed.returncode == 1
    cure = failed.stderr.rpartition("What to do: ")[2]
    assert nowhere in cure
    assert "'make setup TORCH_INDEX=URL'" in cure
    assert "'make clean'" in cure

    pips_own = (small_project / "index").rename(small_project / "offline")
    failed = _set_up(small_project)
    assert failed.returncode == 1
    assert "run 'make setup' again" in failed.stderr.rpartition("What to do: ")[2]

    pips_own.rename(small_project / "index")
    done = _set_up(small_project)
    assert (done.returncode, nowhere in done.stdout) == (0, False), done.stderr


def test_an_index_that_served_is_used_again_and_said(small_project: Path, web_index: str) -> None:
    first = _set_up(small_project, torch_index=f"http://user:hunter2@{web_index}")
    assert first.returncode == 0, first.stderr
    assert f"PyTorch from http://{web_index}\n" in first.stdout
    (small_project / "constraints.txt").write_text("torch==2\ntorchvision==2\n")
    again = _set_up(small_project)
    assert f"PyTorch from http://{web_index} (remembered; make clean forgets it)\n" in again.stdout
    assert again.returncode == 1
    assert f"http://{web_index}" in again.stderr.rpartition("What to do: ")[2]
    assert "hunter2" not in first.stdout + again.stdout + again.stderr


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
