"""Simulated machines for tests: booted, reached over SSH, and gone afterwards."""

import itertools
import json
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from infra.failure import Failure
from infra.simulator.machine import MachineFault, SimulatedMachine, must_be_possible

REPOSITORY = Path(__file__).parents[2]
_PATIENCE = 30.0  # seconds

# Several test runs on one computer must not meet.
_blocks = itertools.count(1)
_NETWORK = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(250) + 1}"


def require_sandbox() -> None:
    """Skip the running test where machines cannot be simulated; with CI=true that is a failure."""
    try:
        must_be_possible()
    except Failure as failure:
        if os.environ.get("CI") == "true":
            pytest.fail(str(failure), pytrace=False)
        pytest.skip(str(failure))


def eventually(true: Callable[[], object]) -> None:
    """Return as soon as it is; fail the test where it never is."""
    until = time.monotonic() + _PATIENCE
    while not true():
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.005)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Box:
    """A simulated machine with the key that opens it."""

    def __init__(self, folder: Path, *, gpus: int = 0, **more: Any) -> None:
        folder.mkdir(parents=True)
        self.folder = folder / "machine"
        self.key = folder / "key"
        self.address = f"{_NETWORK}.{next(_blocks)}"
        self.port = free_port()
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)]
        subprocess.run(keygen, check=True)
        self.machine = SimulatedMachine(self.folder, self.address, self.port, gpus=gpus, **more)
        self.machine.before_cloud_init = lambda: None

    def boot(self, **more: Any) -> None:
        """Boot, and wait until it is up."""
        keys = [self.key.with_suffix(".pub").read_text()]
        self.machine.boot(hostname="box", authorized_keys=keys, **more)
        eventually(lambda: self.machine.running)

    def ssh(self, command: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside through the system's own ssh."""
        words = ["ssh", "-F", "none", "-i", str(self.key), "-p", str(self.port)]
        for option in ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", *options):
            words += ["-o", option]
        words += ["-o", "LogLevel=ERROR", "-o", "BatchMode=yes", self.address, command]
        return subprocess.run(words, capture_output=True, text=True, timeout=60)

    def run_script(self, script: str, environment: Mapping[str, str]) -> dict[str, Any]:
        """Boot with a StackScript, and return its result."""
        self.boot(script=script, environment=environment)
        result = self.folder / "root/stackscript.result"
        eventually(result.exists)
        return dict(json.loads(result.read_text()))

    def calls(self, name: str) -> list[list[str]]:
        """How a stand-in was called."""
        lines = (self.folder / "var/log/standins.log").read_text().splitlines()
        return [call["argv"][1:] for call in map(json.loads, lines) if call["argv"][0] == name]


Boxes = Callable[..., Box]
__all__ = ["REPOSITORY", "Box", "Boxes", "MachineFault", "eventually", "require_sandbox"]
