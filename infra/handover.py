"""Hand a run over to a machine: code, keys, and the order to begin. All that SSH is needed for.

    ~/voc-train/wheels/<name>.whl     what was sent
    ~/voc-train/code/<digest>/        installed from it, once for all runs with the same code
    ~/voc-train/<run>/                job/, agent.log; ca.pem, where the store has its own authority

The keys go in through the input of the program that starts the agent. They are in no argument and
in no environment that others on the machine can see, and in a file only until the agent read it.
On a rented machine, which shall go on by itself after a reboot, a file for root alone keeps them
until the agent has ended (`restart.py`); the machine's disk is deleted with it.
"""

import json
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from infra.failure import Cause, Failure
from infra.ssh import CommandFailed, Connection
from infra.wheel import Wheel

_INSTALL = 300.0  # seconds
_START = 90.0
_AUTHORITY = "AWS_CA_BUNDLE"


def run_folder(connection: Connection, run_id: str) -> str:
    """Absolute path of the run's folder on the machine; Failure(BAD_INPUT) for no run id."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", run_id):  # it ends in an `rm -r`
        raise Failure(Cause.BAD_INPUT, f"{run_id!r} is not the id of a run.")
    return f"{connection.home()}/voc-train/{run_id}"


def install(connection: Connection, python: str, wheel: Wheel) -> str:
    """Have the wheel's code on the machine; returns the folder for PYTHONPATH.

    Raises Failure(SETUP_FAILED) with pip's words.
    """
    place = f"{connection.home()}/voc-train"
    code = f"{place}/code/{wheel.digest}"
    if connection.run(f"test -d {shlex.quote(code)} && echo there || true"):
        return code
    sent = f"{place}/wheels/{wheel.name}"
    connection.put(wheel.content, sent)
    script = (
        f"set -eu; mkdir -p {shlex.quote(f'{place}/code')}; "
        f"part=$(mktemp -d {shlex.quote(f'{code}.XXXXXX')}); trap 'rm -rf \"$part\"' EXIT; "
        f"{shlex.quote(python)} -m pip install --quiet --disable-pip-version-check --no-deps "
        f'--no-index --target "$part/code" {shlex.quote(sent)} >&2; '
        # Another run may have been quicker; a folder would be moved into the other.
        f'[ -d {shlex.quote(code)} ] || mv "$part/code" {shlex.quote(code)}'
    )
    connection.run(f"sh -c {shlex.quote(script)}", timeout=_INSTALL)
    return code


def start_agent(
    connection: Connection,
    python: str,
    code: str,
    *,
    store_url: str,
    run_id: str,
    secrets: Mapping[str, str],
    restart: bool = False,
) -> None:
    """Start the agent with `secrets` as its environment; returns when it runs, on its own.

    With `restart` it goes on after a reboot. The file that AWS_CA_BUNDLE names here goes along.
    Raises Failure(SETUP_FAILED) with the agent's own words when it does not start; then the keys
    are on the machine no more.
    """
    folder = run_folder(connection, run_id)
    environment = dict(secrets)
    if authority := environment.get(_AUTHORITY):
        environment[_AUTHORITY] = f"{folder}/ca.pem"
        connection.put(_content(authority), environment[_AUTHORITY])
    order = ("start", folder, "--store", store_url, "--run", run_id)
    command = launch(python, code, *order, *(["--restart"] if restart else []))
    try:
        connection.run(command, json.dumps(environment).encode(), timeout=_START)
    except CommandFailed as failure:
        raise Failure(
            Cause.SETUP_FAILED,
            f"The agent did not start on {connection.where}: {failure.said.strip()[-500:]}",
        ) from failure


def launch(python: str, code: str, *arguments: str) -> str:
    """The command that runs `infra.launch` on the machine."""
    environment = f"PYTHONPATH={shlex.quote(code)}"
    return f"env {environment} {shlex.join((python, '-m', 'infra.launch', *arguments))}"


def _content(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise Failure(
            Cause.BAD_INPUT,
            f"{_AUTHORITY} names {file}, which cannot be read: {os.strerror(error.errno or 0)}.",
        ) from None
