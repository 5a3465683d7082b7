"""The account and its machines together: the script runs, the disk moves, nothing is left."""

import base64
import io
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paramiko
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from linode_api4 import LinodeClient

from infra.clock import Clock
from infra.failure import Failure
from infra.simulator import Simulator
from infra.simulator.machine import must_be_possible

_SCRIPT = """#!/bin/bash
# <UDF name="requirements" label="Requirements" />
echo "$REQUIREMENTS on $LINODE_RAM" > /root/said
"""
_PATIENCE = 30  # real seconds, for a computer with much else to do


@pytest.fixture(autouse=True)
def possible() -> None:
    try:
        must_be_possible()
    except Failure as failure:
        pytest.skip(str(failure))


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Simulator]:
    with Simulator(tmp_path / "real", clock=Clock.fast(200)) as simulator:
        yield simulator


@pytest.fixture
def key() -> tuple[str, paramiko.PKey]:
    pair = Ed25519PrivateKey.generate()
    text = pair.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public = pair.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return public.decode(), paramiko.Ed25519Key.from_private_key(io.StringIO(text.decode()))


def _order(label: str, key: str) -> dict[str, Any]:
    return {
        "type": "g6-nanode-1",
        "region": "us-ord",
        "label": label,
        "image": "linode/ubuntu24.04",
        "interface_generation": "legacy_config",
        "authorized_keys": [key],
    }


def _eventually(wanted: Any) -> Any:
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            if result := wanted():
                return result
        except (OSError, paramiko.SSHException):
            pass
        assert time.monotonic() < end, "it did not come in time"


def test_a_rented_machine_is_real(
    tmp_path: Path, real: Simulator, key: tuple[str, paramiko.PKey]
) -> None:
    where = real.environment()
    client = LinodeClient(where["LINODE_TOKEN"], base_url=where["LINODE_URL"], retry=False)
    script = client.linode.stackscript_create("script", _SCRIPT, ["linode/ubuntu24.04"])
    order = _order("real-one", key[0]) | {"stackscript_id": script.id}
    order["stackscript_data"] = {"requirements": "torch==2"}
    shown = client.post("/linode/instances", data=order)
    path, address = f"/linode/instances/{shown['id']}", shown["ipv4"][0]
    _eventually(lambda: client.get(path)["status"] == "running")

    def run(command: str) -> str:
        with paramiko.SSHClient() as ssh:
            ssh.set_missing_host_key_policy(paramiko.AutoAddPolicy())
            ssh.connect(
                address,
                int(where["VOC_TRAIN_SSH_PORT"]),
                where["VOC_TRAIN_SSH_USER"],
                pkey=key[1],
                timeout=5,
                allow_agent=False,
                look_for_keys=False,
            )
            return ssh.exec_command(command)[1].read().decode()

    assert _eventually(lambda: run("cat /root/said")) == "torch==2 on 1024\n"
    assert run("hostname") == "real-one\n"
    volume = client.volumes.create("disk", region="us-ord")
    client.post(f"/volumes/{volume.id}/attach", data={"linode_id": shown["id"]})
    _eventually(lambda: client.get(f"/volumes/{volume.id}")["io_ready"])
    assert run("test -e /dev/disk/by-id/scsi-0Linode_Volume_disk && echo there") == "there\n"
    client.delete(path)
    _eventually(lambda: client.linode.instances().total_items == 0)
    assert not (tmp_path / "real/machines" / str(shown["id"])).exists()
    assert (tmp_path / "real/volumes" / str(volume.id)).is_dir()
    with pytest.raises(OSError, match=r"refused|Unable to connect"):
        run("true")
    client.session.close()


def test_closing_ends_what_is_still_rented(tmp_path: Path, key: tuple[str, paramiko.PKey]) -> None:
    with Simulator(tmp_path / "other", clock=Clock.fast(200)) as simulator:
        client = LinodeClient(simulator.token, base_url=simulator.url, retry=False)
        client.post("/linode/instances", data=_order("left-over", key[0]))
        _eventually(lambda: client.get("/linode/instances")["data"][0]["status"] == "running")
        client.session.close()
        machine: Any = simulator.machine("left-over")
        _eventually(lambda: machine.running)
    assert not machine.running
    assert [thing.label for thing in simulator.left()] == ["left-over"]


def _host_key(where: tuple[str, int]) -> str:
    with paramiko.Transport(where) as transport:
        transport.start_client(timeout=1)
        return transport.get_remote_server_key().get_base64()


def test_a_host_key_that_is_another_and_an_sshd_that_freezes(
    real: Simulator, key: tuple[str, paramiko.PKey]
) -> None:
    given = Ed25519PrivateKey.generate()
    private = given.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    ).decode()
    wanted = paramiko.Ed25519Key.from_private_key(io.StringIO(private)).get_base64()
    indented = "".join(f"    {line}\n" for line in private.splitlines())
    user_data = f"#cloud-config\nssh_keys:\n  ed25519_private: |\n{indented}"
    metadata = {"user_data": base64.b64encode(user_data.encode()).decode()}
    real.faults.add("wrong_host_key", label="forged")
    real.faults.add("sshd_freezes", label="frozen", seconds=0)
    client = LinodeClient(real.token, base_url=real.url, retry=False)
    port = int(real.environment()["VOC_TRAIN_SSH_PORT"])
    address = {
        label: client.post(
            "/linode/instances", data=_order(label, key[0]) | {"metadata": metadata}
        )["ipv4"][0]
        for label in ("honest", "forged", "frozen")
    }
    client.session.close()
    _eventually(lambda: _host_key((address["honest"], port)) == wanted)
    forged = _eventually(lambda: _host_key((address["forged"], port)))
    assert forged != wanted
    _eventually(lambda: socket.create_connection((address["frozen"], port), 1).close() is None)
    with pytest.raises(paramiko.SSHException):
        _host_key((address["frozen"], port))
    real.machine("frozen").thaw()
    _eventually(lambda: _host_key((address["frozen"], port)) == wanted)
