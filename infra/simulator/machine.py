"""A machine that is rented in a simulation, and real otherwise: it boots, runs scripts, is reached.

It is a folder, a sandbox on top of it (`sandbox.py`), and a real sshd at an address of its own
(`machine_ssh.py`). What would change a system, needs a network or a GPU is done by stand-ins
(`standins/`). Nothing but the machine's folder and its shares can be written from inside.
"""

import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from infra.simulator import sandbox
from infra.simulator.cloud_init import apply_user_data
from infra.simulator.machine_disk import (
    HOST_KEY,
    MachineFault,
    lay_out,
    name_it,
    python_folders,
    write_host_key,
    write_private,
)
from infra.simulator.machine_life import SCRIPT, Life
from infra.simulator.machine_ssh import Door, program, sshd_command
from infra.simulator.possible import must_be_possible

__all__ = ["MachineFault", "SimulatedMachine", "must_be_possible"]

_VOLUME = "scsi-0Linode_Volume_"  # what a volume is called below /dev/disk/by-id


def _everybody(_client: str) -> bool:
    return True


class SimulatedMachine:
    """A machine with a disk in `folder`, reached by SSH at (address, port).

    `shares` are seen inside at their own paths and can be written. `admits` is asked with the
    client's address at every connection: who is not admitted is never answered, as by a firewall.
    `before_cloud_init` is called while the host key of the image still serves, and decides how
    long it does.
    """

    def __init__(
        self,
        folder: Path,
        address: str,
        port: int,
        *,
        gpus: int,
        shares: Sequence[Path] = (),
        faults: Collection[MachineFault] = (),
    ) -> None:
        self.admits: Callable[[str], bool] = _everybody
        self.before_cloud_init: Callable[[], object] = partial(time.sleep, 0.1)
        self._folder = folder.resolve()
        self._address = (address, port)
        self._shares = [str(share.resolve()) for share in shares]
        self._thawed = threading.Event()
        self._thawed.set()
        self._host_key = self._folder / HOST_KEY
        self._volumes: dict[str, Path] = {}
        self._booted = False
        self._life: Life | None = None
        lay_out(self._folder, gpus=gpus, faults=faults)

    @property
    def running(self) -> bool:
        """Whether it is up, so that its sshd is asked."""
        return self._life is not None and self._life.up

    @property
    def console(self) -> Path:
        """What was written to its console: the boot, and scripts that keep no log."""
        return self._folder / "console.log"

    def boot(
        self,
        *,
        hostname: str,
        authorized_keys: Sequence[str] = (),
        user_data: str = "",
        script: str = "",
        environment: Mapping[str, str] = {},
    ) -> None:
        """Begin to boot; returns at once, and does nothing where it is up already.

        Keys, user data (cloud-config) and `script`, which gets `environment` on top of root's own,
        count at the first boot only. Where no sandbox can be had, the console says why.
        """
        if self._life and not self._life.over:
            return
        first, self._booted = not self._booted, True
        name_it(self._folder, hostname)
        if first:
            keys = "".join(f"{key.strip()}\n" for key in authorized_keys)
            write_private(self._folder / "root/.ssh/authorized_keys", keys)
            if script:
                write_private(self._folder / SCRIPT.lstrip("/"), script, 0o700)
        self._life = Life(
            sandbox.Walls(str(self._folder), hostname, python_folders(), self._shares),
            self.console,
            open_door=self._open_door,
            cloud_init=partial(self._cloud_init, user_data) if first else None,
            script=environment if first and script else None,
        )

    def shut_down(self) -> None:
        """End everything that runs in it, at once; what is on its disk and volumes stays."""
        if self._life:
            self._life.end()

    def destroy(self) -> None:
        """Shut down, give volumes back, and remove the folder. Harmless when done before."""
        self.shut_down()
        for label in list(self._volumes):
            self.detach(label)
        if self._folder.exists():
            # As root of a user namespace, because a script may have taken rights from a folder.
            remove = [str(program("unshare")), "--user", "--map-root-user", "rm", "-rf"]
            subprocess.run([*remove, str(self._folder)], check=True)

    def attach(self, label: str, volume: Path) -> None:
        """Move a volume's folder into the machine; it has to be on the same file system."""
        origin = volume.resolve()
        origin.rename(self._folder / "disks" / f"{_VOLUME}{label}")
        self._volumes[label] = origin

    def detach(self, label: str) -> None:
        """Move a volume's folder back; where it was mounted inside, it is torn off."""
        name = f"{_VOLUME}{label}"
        if self._life:
            self._life.unmount(name)
        (self._folder / "disks" / name).rename(self._volumes.pop(label))

    def freeze(self) -> None:
        """From now on its sshd neither answers nor closes, in old connections and new ones."""
        self._thawed.clear()

    def thaw(self) -> None:
        """Go on where it froze."""
        self._thawed.set()

    def forge_host_key(self) -> None:
        """Show another host key from the next connection on, as an impostor would."""
        self._host_key = self._folder / "forged_host_key"
        write_host_key(self._host_key, Ed25519PrivateKey.generate())

    def _cloud_init(self, user_data: str) -> list[str]:
        self.before_cloud_init()
        return apply_user_data(self._folder, user_data)

    def _open_door(self, enter: list[str]) -> Door:
        def command() -> list[str]:
            return sshd_command(
                f"HostKey {self._host_key}",
                f"AuthorizedKeysFile {self._folder}/root/.ssh/authorized_keys",
                f"ForceCommand {shlex.join([*enter, '/usr/local/sbin/.session'])}",
            )

        def admits(client: str) -> bool:
            return self.admits(client)

        return Door(self._address, command, admits, self._folder / "sshd.log", self._thawed)
