"""Moving a Volume from one machine to another: off, out, in, on, each of them waited for."""

import shlex
from collections.abc import Callable
from datetime import timedelta

from infra.failure import Cause, Failure
from infra.linode import Linode
from infra.provider import Kind, Thing, Unclear
from infra.rental import Rental
from infra.rented import Rented
from infra.ssh import Connection
from infra.ssh.first_login import wait_for_ssh

_LOOK = 3.0  # seconds between two looks
# Makes a file system only where there is none at all: `blkid` ends with 2 for a blank device, and
# with something else for one that it cannot read, which is then left as it is.
_MOUNT = """
set -eu
device={device} folder=$HOME/voc-train
for _ in $(seq 60); do [ -e "$device" ] && break; sleep 1; done
[ -e "$device" ] || {{ echo "the Volume does not show as $device" >&2; exit 1; }}
code=0; blkid "$device" >/dev/null || code=$?
if [ "$code" = 2 ]; then mkfs.ext4 -q "$device"; elif [ "$code" != 0 ]; then
    echo "the Volume cannot be read: blkid ended with $code" >&2; exit 1; fi
mkdir -p "$folder"
mountpoint -q "$folder" || mount "$device" "$folder"
mountpoint -q "$folder"
# After a reboot as well, before the agent on it goes on; without it the machine boots all the same.
grep -qs "^$device " /etc/fstab || echo "$device $folder ext4 defaults,nofail 0 2" >>/etc/fstab
"""


class Mover:
    """Moves one Volume between the machines of one rental."""

    def __init__(self, rental: Rental, provider: Linode, volume: Thing) -> None:
        self._rental = rental
        self._provider = provider
        self._volume = volume

    def put_into(self, rented: Rented) -> None:
        """Attach the Volume, mount it at ~/voc-train, and have a machine that runs with it.

        One that it was in before is gone, or gives it up. Raises Failure(SETUP_FAILED) with what
        stood in the way.
        """
        self._until("be free", lambda: None, lambda: self._seen().attached_to is None)
        self._rental.say(f"attaching the Volume to {rented.instance.label}")
        self._until(
            "be attached",
            lambda: self._provider.attach(self._volume.id, rented.instance.id),
            lambda: self._seen().attached_to == rented.instance.id,
        )
        self.boot(rented)
        self._until("take writes", lambda: None, lambda: self._seen().ready)
        with self._login(rented) as connection:
            device = f"/dev/disk/by-id/scsi-0Linode_Volume_{self._volume.label}"
            script = _MOUNT.format(device=shlex.quote(device))
            connection.run(f"bash -c {shlex.quote(script)}", timeout=180)

    def take_out_of(self, rented: Rented) -> None:
        """Shut the machine down and detach the Volume; both are waited for."""
        self.shut_down(rented)
        self._rental.say(f"detaching the Volume from {rented.instance.label}")
        self._until(
            "be detached",
            lambda: self._provider.detach(self._volume.id),
            lambda: self._seen().attached_to is None,
        )

    def boot(self, rented: Rented) -> None:
        """Have the machine running, if it is off."""
        number = rented.instance.id
        self._until(
            "boot", lambda: self._provider.boot(number), lambda: self._is(number, "running")
        )

    def shut_down(self, rented: Rented) -> None:
        """Have the machine off, its disks written. It costs as before."""
        number = rented.instance.id
        self._rental.say(f"shutting down {rented.instance.label}")
        off = lambda: self._is(number, "offline")  # noqa: E731
        self._until("shut down", lambda: self._provider.shut_down(number), off)

    def _login(self, rented: Rented) -> Connection:
        return wait_for_ssh(
            rented.endpoint,
            key=rented.key,
            host_key=rented.host_key,
            timeout=self._rental.patience.login,
            clock=self._rental.clock,
        )

    def _is(self, number: int, state: str) -> bool:
        there = self._provider.get(Kind.INSTANCE, number)
        if there is None:
            raise Failure(Cause.AGENT_LOST, f"The machine (id {number}) is gone.")
        return there.state == state

    def _seen(self) -> Thing:
        there = self._provider.get(Kind.VOLUME, self._volume.id)
        if there is None:
            raise Failure(Cause.AGENT_LOST, f"The Volume {self._volume.label} is gone.")
        return there

    def _until(self, what: str, ask: Callable[[], None], true: Callable[[], bool]) -> None:
        """Ask once, and again where it is unclear that it was heard; wait until two looks agree.

        A single look may be older than what was asked for.
        """
        clock = self._rental.clock
        give_up = clock.now() + timedelta(seconds=self._rental.patience.boot)
        heard, agreed = False, 0
        while clock.now() < give_up:
            try:
                if not heard:
                    ask()
                    heard = True
                agreed = agreed + 1 if true() else 0
            except Unclear:
                agreed = 0
            if agreed == 2:
                return
            clock.sleep(_LOOK)
        raise Failure(
            Cause.SETUP_FAILED,
            f"The Volume {self._volume.label} or its machine did not {what} within "
            f"{self._rental.patience.boot / 60:.0f} minutes; try again.",
        )
