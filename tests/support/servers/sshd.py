"""A machine to log in to: a real sshd on loopback, with a home and keys in a folder of its own.

It runs as whoever runs the tests, and lets only that user in, with the key of this server.
"""

import contextlib
import os
import pwd
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from infra.provider import Endpoint
from infra.ssh import Connection
from infra.ssh.keys import KeyPair
from servers.requirements import require

_START_SECONDS = 20.0

_CONFIG = """
ListenAddress 127.0.0.1:{port}
HostKey {folder}/etc/ssh/ssh_host_ed25519_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
MaxStartups 100
SetEnv HOME={folder}/home
"""


class SSHD:
    """`with SSHD(folder) as machine`. What a session calls its home is `machine.home`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.key = KeyPair.generate("client")
        self.host_key = KeyPair.generate()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.endpoint = Endpoint("127.0.0.1", port, pwd.getpwuid(os.getuid()).pw_name)
        self._program = require("sshd", "openssh-server")
        self._listener: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True)
        (self.folder / "authorized_keys").write_text(self.key.public + "\n")
        self.show(self.host_key)
        config = _CONFIG.format(folder=self.folder, port=self.endpoint.port)
        (self.folder / "sshd_config").write_text(config)
        if os.geteuid() == 0:  # where root's sshd locks up what has no rights yet
            Path("/run/sshd").mkdir(exist_ok=True)
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    def show(self, key: KeyPair) -> None:
        """Have this host key on disk; the server shows it once it is started or reloaded."""
        file = self.folder / "etc" / "ssh" / "ssh_host_ed25519_key"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(0o600)
        file.write_text(key.private)
        file.with_suffix(".pub").write_text(key.public + "\n")

    def start(self) -> None:
        """Start it, and wait until it listens."""
        with (self.folder / "sshd.log").open("ab") as log:
            self._listener = subprocess.Popen(
                [self._program, "-D", "-e", "-f", self.folder / "sshd_config"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection((self.endpoint.host, self.endpoint.port), 1).close()
                return
            if self._listener.poll() is not None or time.monotonic() > until:
                raise RuntimeError((self.folder / "sshd.log").read_text())
            time.sleep(0.01)

    @property
    def reload(self) -> str:
        """The command that makes it read its keys again."""
        assert self._listener
        return f"kill -HUP {self._listener.pid}"

    def connect(self, *, timeout: float = 20.0) -> Connection:
        """Log in as a controller does."""
        return Connection(self.endpoint, self.key, self.host_key.public, timeout=timeout)

    def freeze(self) -> None:
        """Neither answer nor close from now on, sessions included."""
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def kill(self) -> None:
        """Kill it with its sessions; what was started detached lives on."""
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self._listener:
            self._listener.wait()
        self._listener = None

    def _processes(self) -> list[psutil.Process]:
        if self._listener is None:
            return []
        listener = psutil.Process(self._listener.pid)
        sessions = []
        for process in listener.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended between list and look
                if process.name().startswith("sshd"):
                    sessions.append(process)
        return [listener, *sessions]
