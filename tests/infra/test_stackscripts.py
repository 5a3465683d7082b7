"""The boot scripts, really executed on a simulated machine; and how they come to the provider."""

import hashlib
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest

from infra import stackscripts
from infra.failure import Failure
from infra.provider import Kind, ScriptOrder, Thing
from sandbox import REPOSITORY, Box, MachineFault, require_sandbox
from servers.requirements import require

_SCRIPTS = ("cpu_preparer", "gpu_trainer")
_FIELDS = {"REQUIREMENTS": "torch==2.15.0 numpy==2.4.6", "LINODE_ID": "7", "RETRY_SECONDS": "0"}
_DONE = {"code": 0, "line": None, "command": None}
_PYTHON = "/opt/voc-train/venv/bin/python"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Box]]:
    """Makes a machine that is gone when the test is."""
    require_sandbox()
    boxes: list[Box] = []

    def make(*, gpus: int = 1, faults: tuple[MachineFault, ...] = ()) -> Box:
        boxes.append(Box(tmp_path / "box", gpus=gpus, faults=faults))
        return boxes[-1]

    yield make
    for box in boxes:
        box.machine.destroy()


def _text(name: str) -> str:
    return stackscripts.script(name).script


def _log(box: Box) -> str:
    return (box.folder / "root/stackscript.log").read_text()


def test_a_gpu_machine_gets_driver_and_packages_and_again_without_harm(
    make: Callable[..., Box],
) -> None:
    box = make()
    assert box.run_script(_text("gpu_trainer"), _FIELDS) == _DONE, _log(box)
    installed = [name for call in box.calls("apt-get") if "install" in call for name in call]
    assert "nvidia-driver-580-server" in installed
    assert box.calls("nvidia-smi")
    assert box.calls("pip")[0][-2:] == ["torch==2.15.0", "numpy==2.4.6"]
    again = " ".join(f"{name}='{value}'" for name, value in _FIELDS.items())
    assert box.ssh(f"{again} /root/StackScript").returncode == 0
    assert json.loads((box.folder / "root/stackscript.result").read_text()) == _DONE
    assert _log(box).count("ended with code 0") == 2


def test_a_cpu_machine_asks_for_no_driver(make: Callable[..., Box]) -> None:
    box = make(gpus=0)
    assert box.run_script(_text("cpu_preparer"), _FIELDS) == _DONE, _log(box)
    assert not [call for call in box.calls("apt-get") if "nvidia" in " ".join(call)]


def test_its_python_has_these_packages_and_wheels_and_not_the_project(
    make: Callable[..., Box], tmp_path: Path
) -> None:
    box = make(gpus=0)
    box.run_script(_text("cpu_preparer"), _FIELDS)
    wheel = box.folder / "root/thing-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("thing.py", "word = 'installed'\n")
        file.writestr("thing-1.dist-info/RECORD", "thing.py,,\nthing-1.dist-info/RECORD,,\n")
    program = "import numpy, sys, thing; print(thing.word, sys.prefix)"
    said = box.ssh(f"{_PYTHON} -m pip install --no-deps *.whl && {_PYTHON} -c '{program}'")
    assert said.stdout == "installed /opt/voc-train/venv\n", said.stderr
    for package in ("infra", "model", "pipeline"):
        assert f"No module named '{package}'" in box.ssh(f"{_PYTHON} -c 'import {package}'").stderr


@pytest.mark.parametrize(
    ("faults", "gpus", "code", "command", "said"),
    [
        ((MachineFault.APT_FAILS,), 1, 100, "apt-get", "503  Service Unavailable"),
        ((MachineFault.DRIVER,), 1, 9, "nvidia-smi", "couldn't communicate with the NVIDIA driver"),
        ((MachineFault.PIP,), 1, 1, f"{_PYTHON} -m pip", "No matching distribution"),
        ((), 0, 1, "modprobe nvidia", "No such device"),
    ],
)
def test_what_fails_stands_in_result_and_log(
    make: Callable[..., Box],
    faults: tuple[MachineFault, ...],
    gpus: int,
    code: int,
    command: str,
    said: str,
) -> None:
    box = make(gpus=gpus, faults=faults)
    result = box.run_script(_text("gpu_trainer"), _FIELDS)
    assert result["code"] == code
    assert result["command"].startswith(command)
    line = _text("gpu_trainer").splitlines()[result["line"] - 1]
    assert "retry" in line
    assert said in _log(box)
    assert f"ended with code {code}" in _log(box).splitlines()[-1]


def test_any_command_that_fails_is_named_with_its_line(make: Callable[..., Box]) -> None:
    """One that is not tried again, and holds all that JSON must not."""
    box = make(gpus=0)
    broken = '\tgrep -q "a\\\\b" /dev/null  # said'
    lines = [*_text("cpu_preparer").splitlines(), broken]
    result = box.run_script("\n".join(lines) + "\n", _FIELDS)
    assert result == {"code": 1, "line": len(lines), "command": 'grep -q "a\\\\b" /dev/null'}


def test_torch_without_a_gpu_is_no_trainer(make: Callable[..., Box]) -> None:
    """The last line of the trainer's script, on a machine that has no driver."""
    box = make(gpus=0)
    text = _text("cpu_preparer") + _text("gpu_trainer").splitlines()[-1] + "\n"
    result = box.run_script(text, _FIELDS)
    assert (result["code"], result["line"]) == (1, len(text.splitlines()))
    assert "PyTorch sees no GPU" in _log(box)


def test_a_lock_that_is_held_for_a_moment_is_waited_for(make: Callable[..., Box]) -> None:
    box = make(gpus=0, faults=(MachineFault.APT_BUSY,))
    assert box.run_script(_text("cpu_preparer"), _FIELDS) == _DONE
    assert "Could not get lock" in _log(box)


@pytest.mark.parametrize("name", _SCRIPTS)
def test_shellcheck_finds_nothing(name: str) -> None:
    check = [require("shellcheck", "shellcheck"), str(REPOSITORY / "stackscripts" / f"{name}.sh")]
    assert subprocess.run(check, capture_output=True, text=True).stdout == ""


@pytest.mark.parametrize("name", _SCRIPTS)
def test_one_field_is_filled_in_and_it_is_no_secret(name: str) -> None:
    fields = re.findall(r'^# <UDF name="(\w+)" label="[^"]+"', _text(name), re.MULTILINE)
    assert fields == ["requirements"]


def test_both_scripts_begin_alike() -> None:
    """From the note on it to the dashes; what makes them different stands before and after."""
    shared = [re.search(r"^# What follows.*^# -{9}", _text(name), re.M | re.S) for name in _SCRIPTS]
    assert shared[0]
    assert shared[1]
    assert shared[0][0] == shared[1][0]


class _Account:
    """The scripts of an account, as a provider lists them."""

    def __init__(self) -> None:
        self.scripts: list[Thing] = []

    def list(self, kind: Kind, *, label: str | None = None, tag: str | None = None) -> list[Thing]:
        assert kind is Kind.SCRIPT
        return list(self.scripts)

    def create(self, order: ScriptOrder) -> Thing:
        number = len(self.scripts) + 1
        self.scripts.append(Thing(Kind.SCRIPT, number, order.label, text=order.script))
        return self.scripts[-1]


def test_a_script_is_published_once_under_the_hash_of_its_text() -> None:
    account = _Account()
    order = stackscripts.script("gpu_trainer")
    assert order.label.endswith(hashlib.sha256(order.script.encode()).hexdigest()[:12])
    account.scripts = [
        Thing(Kind.SCRIPT, 70, order.label, text="#!/bin/bash\nmine\n"),
        Thing(Kind.SCRIPT, 71, "mine", text=order.script),
    ]
    first = stackscripts.published(account, "gpu_trainer", account.create)  # type: ignore[arg-type]
    assert first.id == 3
    assert stackscripts.published(account, "gpu_trainer", account.create) == first  # type: ignore[arg-type]


def test_a_script_that_is_not_there_is_said_to_be() -> None:
    with pytest.raises(Failure, match="tpu_trainer.sh cannot be read"):
        stackscripts.script("tpu_trainer")


@pytest.mark.parametrize(
    ("names", "modules"),
    [
        (stackscripts.TRAINER, ("infra.agent", "model.job", "model.wandb_feed")),
        (stackscripts.PREPARER, ("infra.agent", "pipeline.prepare")),
    ],
)
def test_what_is_pinned_suffices(names: tuple[str, ...], modules: tuple[str, ...]) -> None:
    """Nothing but the distributions that are asked for can be imported, and that is enough."""
    pinned = {re.split("==", pin)[0] for pin in stackscripts.requirements(names).split()}
    others = {
        module
        for module, owners in metadata.packages_distributions().items()
        if not {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners} & pinned
    }
    hidden = dict.fromkeys(others - {"infra", "model", "pipeline"})
    program = f"import sys; sys.modules.update({hidden}); import {', '.join(modules)}"
    run = [sys.executable, "-c", program]
    subprocess.run(run, cwd=REPOSITORY, check=True)


def test_pins_are_what_is_installed_without_the_build() -> None:
    pins = stackscripts.requirements(["torch"]).split()
    assert f"torch=={metadata.version('torch').split('+')[0]}" in pins
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", pin) for pin in pins)


def test_what_is_not_installed_cannot_be_pinned() -> None:
    with pytest.raises(Failure, match="no-such-thing is not installed"):
        stackscripts.requirements(["numpy", "no-such-thing"])
