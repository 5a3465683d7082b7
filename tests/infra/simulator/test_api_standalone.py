"""The simulator as a program: its exports, its timeline, its bill."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from linode_api4 import LinodeClient

_PROGRAM = [sys.executable, "-m", "infra.simulator"]
_ORDER = {"type": "g6-nanode-1", "region": "us-ord", "interface_generation": "legacy_config"}


@pytest.fixture
def program(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [*_PROGRAM, "--no-machines", "--speed", "600", "--folder", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        yield program
        program.kill()


def _exports(program: subprocess.Popen[str]) -> dict[str, str]:
    assert program.stdout
    found = {}
    for line in program.stdout:
        name, _, value = line.removeprefix("export ").partition("=")
        found[name] = shlex.split(value)[0]
        if name == "VOC_TRAIN_CLOCK":
            return found
    raise AssertionError("it ended before it said everything")


def test_it_serves_any_client_and_ends_with_a_bill(program: subprocess.Popen[str]) -> None:
    exports = _exports(program)
    client = LinodeClient(exports["LINODE_TOKEN"], base_url=exports["LINODE_URL"], retry=False)
    instance = client.post("/linode/instances", data={**_ORDER, "label": "alone"})
    faults = exports["LINODE_URL"].replace("/v4", "/faults")
    asked = {"effect": "server_error", "path": "/volumes", "status": 503}
    assert httpx.post(faults, json=asked, trust_env=False).status_code == 200
    answer = httpx.get(
        f"{exports['LINODE_URL']}/volumes",
        headers={"Authorization": f"Bearer {exports['LINODE_TOKEN']}"},
        trust_env=False,
    )
    assert answer.status_code == 503
    client.session.close()
    program.send_signal(signal.SIGINT)
    said, _ = program.communicate(timeout=30)
    assert program.returncode == 0
    assert f"instance {instance['id']} (alone) created" in said
    assert "POST /linode/instances 200" in said
    assert "GET /volumes 503 Internal Server Error" in said
    assert re.search(r"instance +alone .*still there +1 h +\$0\.0075", said)
    assert f"left: instance {instance['id']} (alone)" in said


def test_help_names_every_fault() -> None:
    from infra.simulator.faults import Effect

    environment = os.environ | {"COLUMNS": "100"}
    said = subprocess.run(
        [*_PROGRAM, "--help"], capture_output=True, text=True, check=True, env=environment
    ).stdout
    assert all(effect in said for effect in Effect)


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [*_PROGRAM, "--no-machines", "--folder", str(tmp_path), "--port", port]
        ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert f"Port {port} cannot be had" in ended.stderr
    assert "Traceback" not in ended.stderr
