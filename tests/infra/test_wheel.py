"""The wheel for a machine: what it holds, and that it works where nothing else of this is."""

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import infra.wheel
from infra.wheel import build_wheel


def _names(roots: tuple[str, ...] = infra.wheel.BOX) -> set[str]:
    with zipfile.ZipFile(io.BytesIO(build_wheel(roots).content)) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_a_machine_gets_training_and_agent_and_nothing_that_rents() -> None:
    names = _names()
    assert {"model/train.py", "model/nets/segmentnet.py", "infra/agent.py"} <= names
    assert not any(name.startswith("pipeline") for name in names)
    for room in ("provider", "linode", "ssh", "handover", "host_keys", "machines", "simulator"):
        assert not any(name.startswith(f"infra/{room}") for name in names)
    assert not any("__pycache__" in name for name in names)


def test_a_module_brings_what_it_imports_and_a_package_its_data() -> None:
    stage = _names(("pipeline.stages.separate",))
    assert {"pipeline/__init__.py", "pipeline/stages/__init__.py"} <= stage
    assert "model/errors.py" in stage
    assert "pipeline/flow.py" not in stage
    assert "pipeline/report.html" in _names(("pipeline",))


def test_equal_code_gives_equal_bytes_and_other_code_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build_wheel() == build_wheel()
    monkeypatch.setattr(infra.wheel, "_ROOMS", ("attic",))
    monkeypatch.syspath_prepend(tmp_path)
    source = tmp_path / "attic" / "__init__.py"
    source.parent.mkdir()
    source.write_text("")
    first = build_wheel(("attic",))
    os.utime(source, (0, 0))
    assert build_wheel(("attic",)) == first
    source.write_text("1")
    other = build_wheel(("attic",))
    assert other.digest != first.digest
    assert other.name != first.name


def test_pip_installs_it_and_it_runs_alone(tmp_path: Path) -> None:
    wheel = build_wheel()
    assert wheel.name.endswith(f"+{wheel.digest}-py3-none-any.whl")
    (tmp_path / wheel.name).write_bytes(wheel.content)
    code = tmp_path / "code"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", code]
    subprocess.run([*pip, tmp_path / wheel.name], check=True, capture_output=True)

    def run(*arguments: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(code)}
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "--secrets" in run("-m", "infra.agent", "--help")
    assert "FOLDER" in run("-m", "infra.launch", "--help")
    # What it takes from this project is its own: an import from elsewhere would be missing there.
    found = run(
        "-c",
        "import sys, infra.agent, model.train; print(*(m.__file__ for n, m in sys.modules.items() "
        "if n.split('.')[0] in ('model', 'infra', 'pipeline') and m.__file__), sep='\\n')",
    )
    assert len(found.split()) > 20
    assert all(Path(file).is_relative_to(code) for file in found.split())
