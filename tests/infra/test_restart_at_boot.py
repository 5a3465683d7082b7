"""A machine that the StackScript made ready starts again, at boot, what had not ended."""

import io
import json
import shlex
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import log_of, put_spec, until
from infra import stackscripts
from infra.failure import Cause
from infra.protocol import Result
from infra.restart import RESTART
from infra.stores import Store
from infra.wheel import build_wheel
from sandbox import Box, eventually, require_sandbox

_PYTHON = "/opt/voc-train/venv/bin/python"
_FOLDER = "/root/voc-train/r"
_WORKING = "print('at work', flush=True); import time; time.sleep(600)"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """A machine without a GPU that is set up, and sees the store."""
    require_sandbox()
    (tmp_path / "store").mkdir()
    box = Box(tmp_path / "box", shares=[tmp_path / "store"])
    script = stackscripts.script("cpu_preparer").script
    fields = {"REQUIREMENTS": "numpy==2.4.6", "RETRY_SECONDS": "0"}
    assert box.run_script(script, fields)["code"] == 0
    with zipfile.ZipFile(io.BytesIO(build_wheel().content)) as wheel:
        wheel.extractall(box.folder / "root/code")
    yield box
    box.machine.destroy()


def _launch(box: Box, what: str, *more: str, store: Store | None = None) -> None:
    words = [_PYTHON, "-m", "infra.launch", what, _FOLDER, *more]
    words += ["--store", store.url, "--run", "r"] if store else []
    done = box.ssh(f"echo '{{}}' | PYTHONPATH=/root/code {shlex.join(words)}")
    assert done.returncode == 0, done.stderr


def _disk(box: Box, name: str) -> Path:
    return box.folder / _FOLDER.lstrip("/") / name


def test_its_deadline_is_the_one_of_before(box: Box, store: Store) -> None:
    put_spec(store, _WORKING)
    _launch(box, "start", "--restart", store=store)
    until(lambda: log_of(store) == b"at work\n")
    box.machine.shut_down()
    note = _disk(box, "job/deadline.json")
    note.write_text(json.dumps(json.loads(note.read_text()) | {"remaining": 0.0}))
    box.boot()
    until(lambda: store.get("runs/r/result.json"))
    result = store.read("runs/r/result.json", Result)
    assert result
    assert result.cause is Cause.DEADLINE
    assert log_of(store) == b"at work\n"
    eventually(lambda: not _disk(box, RESTART).exists())


def test_what_was_killed_for_good_or_is_on_a_host_of_ones_own_is_not_started(
    box: Box, store: Store
) -> None:
    """By the time that the next one in the alphabet is started, it would have been."""
    put_spec(store, _WORKING)
    for more in (["--restart"], []):
        before = log_of(store).count(b"at work")
        _launch(box, "start", *more, store=store)
        until(lambda: log_of(store).count(b"at work") > before)  # noqa: B023
        if more:
            _launch(box, "kill")
    note = _disk(box, "job/agent").read_text()
    _start_beside(box.folder / "root/voc-train")
    box.machine.shut_down()
    box.boot()
    eventually((box.folder / "root/started").exists)
    assert _disk(box, "job/agent").read_text() == note


def test_a_volume_is_there_before_what_works_on_it(box: Box, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    (volume / "lost+found").mkdir(parents=True)
    _start_beside(volume)
    (box.folder / "root/voc-train").mkdir()
    device = "/dev/disk/by-id/scsi-0Linode_Volume_data"
    (box.folder / "etc/fstab").write_text(f"{device} /root/voc-train ext4 defaults,nofail 0 2\n")
    box.machine.shut_down()
    box.machine.attach("data", volume)
    box.boot()
    eventually((box.folder / "root/started").exists)


def _start_beside(folder: Path) -> None:
    """Another run there, whose start shows."""
    (folder / "z").mkdir()
    (folder / "z" / RESTART).write_text("touch /root/started")
