"""The first login to a machine that boots: by the key it was given, which it then replaces."""

import shlex
from datetime import timedelta

from infra.clock import Clock
from infra.provider import Endpoint
from infra.ssh import Connection
from infra.ssh.keys import ROTATION, KeyPair
from infra.ssh.login import HostKeyMismatch, NotYet

_RELOAD = 30.0  # seconds that sshd may take to show its new host key
_LOOK = 2.0  # seconds of a clock between two attempts to log in


def wait_for_ssh(
    endpoint: Endpoint, *, key: KeyPair, host_key: str, timeout: float, clock: Clock
) -> Connection:
    """Log in to a machine that boots, within `timeout` seconds of `clock`.

    Nobody answers at first, then the image's own sshd may, with a key that cloud-init is about to
    replace: neither is an error until the time is over, and no other key is ever accepted. Then
    raises NotYet, or HostKeyMismatch when it is still another key.
    """
    until = clock.now() + timedelta(seconds=timeout)
    while True:
        try:
            return Connection(endpoint, key, host_key)
        except (NotYet, HostKeyMismatch):
            if clock.now() >= until:
                raise
        clock.sleep(_LOOK)


def rotate_host_key(
    connection: Connection, *, root: str = "", reload: str = "systemctl reload ssh"
) -> str:
    """Have the machine make itself a new host key; returns the public half, one line.

    The injected one is removed from it, wherever cloud-init left a copy. The new one counts when
    a new connection has shown it. `root` stands before every path, `reload` makes sshd look again.
    """
    script = ROTATION.format(root=root, reload=reload)
    fresh = connection.run(f"sh -c {shlex.quote(script)}").strip()
    assert connection.key is not None
    with wait_for_ssh(
        connection.endpoint, key=connection.key, host_key=fresh, timeout=_RELOAD, clock=Clock()
    ):
        return fresh
