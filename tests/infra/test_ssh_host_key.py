"""Who answers must show the key that we know: at the first login, in a boot, and afterwards."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from agents import PATIENCE, until
from infra.clock import Clock
from infra.failure import Cause, Failure
from infra.provider import Endpoint
from infra.ssh import Connection
from infra.ssh.first_login import rotate_host_key, wait_for_ssh
from infra.ssh.keys import KeyPair, cloud_config
from infra.ssh.login import HostKeyMismatch, NotYet
from servers.sshd import SSHD


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[SSHD]:
    with SSHD(tmp_path / "machine") as machine:
        yield machine


def test_user_data_holds_the_host_key_and_nothing_else() -> None:
    key = KeyPair.generate("a comment")
    assert key.public.startswith("ssh-ed25519 ")
    assert key.public.endswith(" a comment")
    text = cloud_config(key)
    assert text.startswith("#cloud-config\n")
    assert yaml.safe_load(text) == {
        "ssh_keys": {"ed25519_private": key.private, "ed25519_public": key.public}
    }
    assert key.private not in repr(key)


def test_another_host_key_stops_everything(machine: SSHD) -> None:
    with pytest.raises(HostKeyMismatch, match=r"Stop: somebody may be in between") as caught:
        Connection(machine.endpoint, machine.key, KeyPair.generate().public)
    assert caught.value.cause is Cause.HOST_KEY
    assert caught.value.permanent


def test_a_key_that_is_not_let_in_may_be_later(machine: SSHD) -> None:
    with pytest.raises(NotYet, match="lets nobody in with this key") as caught:
        Connection(machine.endpoint, KeyPair.generate(), machine.host_key.public)
    assert caught.value.cause is Cause.BOOT_TIMEOUT


def test_a_closed_port_and_a_server_that_says_nothing_are_not_ready_yet(machine: SSHD) -> None:
    machine.freeze()
    with pytest.raises(NotYet, match="No SSH server answers"):
        machine.connect(timeout=0.5)
    machine.kill()
    with pytest.raises(NotYet, match="refused"):
        machine.connect()


def test_a_boot_is_waited_for_and_the_images_key_is_not_accepted(machine: SSHD) -> None:
    """Closed, then the image's sshd with its own key, then the one that was ordered."""
    machine.kill()
    machine.show(KeyPair.generate())
    log = machine.folder / "sshd.log"
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(
            wait_for_ssh,
            machine.endpoint,
            key=machine.key,
            host_key=machine.host_key.public,
            timeout=100 * PATIENCE,
            clock=Clock.fast(100),
        )
        machine.start()
        until(lambda: "[preauth]" in log.read_text())  # it was refused
        assert not waiting.done()
        machine.kill()
        machine.show(machine.host_key)
        machine.start()
        with waiting.result() as connection:
            assert connection.run("echo in") == "in\n"


def test_a_wrong_key_that_stays_is_an_error_when_time_is_over(machine: SSHD) -> None:
    def wait(endpoint: Endpoint) -> None:
        wait_for_ssh(
            endpoint,
            key=machine.key,
            host_key=KeyPair.generate().public,
            timeout=10,
            clock=Clock.fast(100),
        )

    with pytest.raises(HostKeyMismatch):
        wait(machine.endpoint)
    machine.kill()
    with pytest.raises(NotYet):
        wait(machine.endpoint)


def test_a_user_s_own_host_is_known_by_known_hosts_and_their_keys(machine: SSHD) -> None:
    """No key is accepted because it is new, not even here."""
    with pytest.raises(Failure, match=r"not in ~/.ssh/known_hosts: log in once") as caught:
        Connection(machine.endpoint)
    assert caught.value.cause is Cause.BAD_INPUT

    ssh = Path.home() / ".ssh"
    ssh.mkdir(mode=0o700)
    host = f"[{machine.endpoint.host}]:{machine.endpoint.port}"
    (ssh / "known_hosts").write_text(f"{host} {machine.host_key.public}\n")
    (ssh / "id_ed25519").touch(0o600)
    (ssh / "id_ed25519").write_text(machine.key.private)
    with Connection(machine.endpoint) as connection:
        assert connection.run("echo in") == "in\n"

    (ssh / "known_hosts").write_text(f"{host} {KeyPair.generate().public}\n")
    with pytest.raises(HostKeyMismatch):
        Connection(machine.endpoint)


def test_the_machine_makes_itself_a_key_that_replaces_the_injected_one(machine: SSHD) -> None:
    injected = machine.host_key
    cloud = machine.folder / "var/lib/cloud/instances/iid"
    ran = machine.folder / "run/cloud-init"
    for folder in (cloud, ran):
        folder.mkdir(parents=True)
    copies = [
        cloud / "user-data.txt",
        cloud / "user-data.txt.i",
        cloud / "cloud-config.txt",
        cloud / "obj.pkl",
        ran / "combined-cloud-config.json",
        ran / "instance-data-sensitive.json",
    ]
    for copy in copies:
        copy.write_text(cloud_config(injected))

    with machine.connect() as connection:
        fresh = rotate_host_key(connection, root=str(machine.folder), reload=machine.reload)
    assert fresh.split()[:2] != injected.public.split()[:2]
    with Connection(machine.endpoint, machine.key, fresh) as connection:
        assert connection.run("echo in") == "in\n"
    with pytest.raises(HostKeyMismatch):
        machine.connect()

    until(lambda: not any(copy.exists() for copy in copies))
    assert (machine.folder / "etc/cloud/cloud-init.disabled").exists()
    kept = [p for p in machine.folder.rglob("*") if p.is_file() and p.stat().st_mode & 0o400]
    secret = injected.private.splitlines()[2]
    assert not [p for p in kept if secret in p.read_text(errors="replace")]
    (key,) = (machine.folder / "etc/ssh").glob("*_key")
    assert key.stat().st_mode & 0o777 == 0o600
