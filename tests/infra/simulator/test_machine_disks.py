"""Volumes and host keys of a simulated machine: what comes from outside, and goes again."""

import threading
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from sandbox import Box, eventually, require_sandbox

_DEVICE = "/dev/disk/by-id/scsi-0Linode_Volume_data"


@pytest.fixture(scope="module", autouse=True)
def _possible() -> None:
    require_sandbox()


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path / "box")
    yield box
    box.machine.destroy()


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    volume = tmp_path / "volume"
    volume.mkdir()
    return volume


def _shown_key(box: Box) -> str:
    with paramiko.Transport((box.address, box.port)) as transport:
        transport.start_client(timeout=30)
        return transport.get_remote_server_key().get_base64()


def _stored_key(box: Box) -> str:
    return (box.folder / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()[1]


def _private(key: Ed25519PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()


def test_a_volume_moves_between_machines(box: Box, volume: Path, tmp_path: Path) -> None:
    box.boot()
    box.machine.attach("data", volume)
    assert not volume.exists()
    blank = box.ssh(f"mount {_DEVICE} /mnt || blkid {_DEVICE}")
    assert blank.returncode == 2
    assert "wrong fs type" in blank.stderr
    steps = f"mkfs.ext4 -q {_DEVICE} && mount {_DEVICE} /mnt && echo photo >/mnt/a && umount /mnt"
    assert box.ssh(steps).returncode == 0
    assert box.ssh("ls /mnt").stdout == ""
    box.machine.detach("data")
    assert (volume / "a").read_text() == "photo\n"

    other = Box(tmp_path / "other")
    other.boot()
    other.machine.attach("data", volume)
    said = other.ssh(f"blkid -o value -s TYPE {_DEVICE}; mount {_DEVICE} /mnt; cat /mnt/a")
    assert said.stdout == "ext4\nphoto\n"
    other.machine.destroy()
    assert (volume / "a").exists()


def test_a_mounted_volume_is_torn_off(box: Box, volume: Path) -> None:
    box.boot()
    box.machine.attach("data", volume)
    assert box.ssh(f"mkfs.ext4 {_DEVICE} && mount {_DEVICE} /mnt && touch /mnt/a").returncode == 0
    assert box.ssh(f"mkfs.ext4 {_DEVICE}").returncode == 1
    box.machine.detach("data")
    said = box.ssh("touch /mnt/b; ls /dev/disk/by-id /mnt | xargs")
    assert said.stdout == "/dev/disk/by-id: /mnt: b\n"
    assert sorted(entry.name for entry in volume.iterdir()) == ["a", "lost+found"]


def test_the_images_key_serves_until_cloud_init_has_set_the_given_one(box: Box) -> None:
    given = Ed25519PrivateKey.generate()
    proceed = threading.Event()
    box.machine.before_cloud_init = proceed.wait
    config = {"ssh_keys": {"ed25519_private": _private(given)}, "packages": ["tree"]}
    box.boot(user_data=f"#cloud-config\n{yaml.safe_dump(config)}", script="#!/bin/sh\necho begun\n")
    of_the_image = _stored_key(box)
    assert _shown_key(box) == of_the_image
    assert "begun" not in box.machine.console.read_text()
    proceed.set()
    eventually(lambda: "begun" in box.machine.console.read_text())
    assert "packages is not simulated" in box.machine.console.read_text()
    expected = given.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1]
    assert _shown_key(box) == _stored_key(box) == expected.decode()


@pytest.mark.parametrize(
    ("user_data", "said"),
    [
        ("ssh_keys: {}", "does not begin with"),
        ("#cloud-config\nssh_keys: [", "is no YAML"),
        ("#cloud-config\n- a", "holds no settings"),
        ("#cloud-config\nssh_keys: {rsa_private: a}", "holds no ed25519_private"),
        ("#cloud-config\nssh_keys: {ed25519_private: a}", "cannot be read"),
    ],
)
def test_broken_user_data_is_reported_and_stops_no_boot(
    box: Box, user_data: str, said: str
) -> None:
    box.boot(user_data=user_data)
    eventually(lambda: said in box.machine.console.read_text())
    assert _shown_key(box) == _stored_key(box)


def test_a_key_renewed_inside_is_shown_next(box: Box) -> None:
    box.boot()
    before = _shown_key(box)
    renew = "cd /etc/ssh && rm ssh_host_* && ssh-keygen -q -t ed25519 -N '' -f ssh_host_ed25519_key"
    assert box.ssh(f"{renew} && systemctl reload ssh").returncode == 0
    assert _shown_key(box) == _stored_key(box) != before


def test_an_impostor_shows_another_key(box: Box) -> None:
    box.boot()
    box.machine.forge_host_key()
    assert _shown_key(box) != _stored_key(box)
