"""The agent's keys, which nobody else sees, and its folder, in which it is alone."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil

from agents import PATIENCE, log_of, put_spec, until
from infra.protocol import Result
from infra.stores import Store

_KEY = "canary-bucket-key"
_FEED = "canary-feed-key"
_names_its_keys = (
    "import os, time\n"
    "print(os.environ.get('AWS_SECRET_ACCESS_KEY'), os.environ['WANDB_API_KEY'], flush=True)\n"
)


def _secrets(file: Path) -> Path:
    file.write_text(json.dumps({"AWS_SECRET_ACCESS_KEY": _KEY, "WANDB_API_KEY": _FEED}))
    return file


def test_keys_from_a_file_reach_the_agent_and_wandbs_the_job(
    store: Store, tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    secrets = _secrets(tmp_path / "secrets.json")
    put_spec(store, f"{_names_its_keys}time.sleep(600)")
    agent = start("--secrets", str(secrets))
    until(lambda: log_of(store))
    assert log_of(store).decode().split() == ["None", _FEED]
    assert not secrets.exists()
    shown = psutil.Process(agent.pid)
    assert _KEY not in str(shown.environ())
    assert _FEED not in str(shown.environ())
    (job,) = shown.children()
    assert _KEY not in str(job.environ())


def test_a_file_without_keys_is_refused_and_not_quoted(
    tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    secrets = tmp_path / "secrets.json"
    for said in (f'{{"A": "{_KEY}"', f'["{_KEY}"]', f'{{"{_KEY}": 1}}'):
        secrets.write_text(said)
        assert start("--secrets", str(secrets)).wait(PATIENCE) == 1
        assert not secrets.exists()
    assert start("--secrets", str(secrets)).wait(PATIENCE) == 1  # there is none
    log = (tmp_path / "agent.log").read_text()
    assert log.count("is not a readable JSON object") == 4
    assert _KEY not in log


def test_a_second_agent_in_the_same_folder_is_refused(
    store: Store, tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    go = tmp_path / "go"
    put_spec(
        store,
        "import pathlib, time\nprint('begun', flush=True)\n"
        f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)",
    )
    first = start()
    until(lambda: log_of(store))
    secrets = _secrets(tmp_path / "secrets.json")
    assert start("--secrets", str(secrets)).wait(PATIENCE) == 1
    assert "works in" in (tmp_path / "agent.log").read_text()
    assert not secrets.exists()
    assert store.get("runs/r/result.json") is None  # the first one's word counts
    go.touch()
    assert first.wait(PATIENCE) == 0

    assert start().wait(PATIENCE) == 0  # the next one after it may
    result = store.read("runs/r/result.json", Result)
    assert result
    assert result.cause is None


def test_an_agent_that_was_killed_locks_nobody_out(
    store: Store, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    put_spec(store, "print('begun', flush=True)\nimport time; time.sleep(600)")
    first = start()
    until(lambda: log_of(store))
    first.kill()
    first.wait()
    put_spec(store, "pass")
    assert start().wait(PATIENCE) == 0
