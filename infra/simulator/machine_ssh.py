"""The way into a simulated machine: an address of its own, and a real sshd for every connection."""

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

_FOLDERS = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
_SFTP = ("/usr/lib/openssh", "/usr/libexec/openssh", "/usr/lib/ssh", "/usr/libexec")
_PIECE = 1 << 16
# As root, sshd wants an empty folder that the system only has once sshd was started there, and it
# writes down who logs in: it gets folders of its own for both, which end with it.
_APART = (
    "mount -t tmpfs -o mode=755 none /run && mkdir /run/sshd && mount -t tmpfs none /var/log && "
    'exec "$@"'
)


def program(name: str) -> str | None:
    """The full path of a program of the system, of which some are off a user's PATH."""
    return shutil.which(name, path=_FOLDERS)


def sftp_server() -> str | None:
    """The full path of OpenSSH's sftp-server, which is on nobody's PATH."""
    return shutil.which("sftp-server", path=os.pathsep.join(_SFTP))


def sshd_command(*options: str) -> list[str]:
    """How to start an sshd for one connection, which is its standard input and output."""
    fixed = [
        "UsePAM no",
        "StrictModes no",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PermitRootLogin prohibit-password",
        # These would leave sockets on the computer that the machine is simulated on.
        "AllowAgentForwarding no",
        "AllowStreamLocalForwarding no",
        "PermitTunnel no",
        # Else bash, which runs every command, would read the .bashrc of whoever simulates this.
        "SetEnv SHLVL=1",
        f"Subsystem sftp {sftp_server()}",
    ]
    command = [str(program("sshd")), "-i", "-e", "-f", "/dev/null"]
    for option in (*fixed, *options):
        command += ["-o", option]
    return apart(command) if os.geteuid() == 0 else command


def apart(command: list[str]) -> list[str]:
    """Root's way to run a command that finds what sshd wants, and leaves no trace."""
    namespace = [str(program("unshare")), "--mount", "--propagation", "private"]
    return [*namespace, "/bin/sh", "-c", _APART, "sshd", *command]


class Door:
    """Listens for one machine while that is up. Whoever is not admitted gets no answer."""

    def __init__(
        self,
        address: tuple[str, int],
        command: Callable[[], list[str]],
        admits: Callable[[str], bool],
        log: Path,
        thawed: threading.Event,
    ) -> None:
        self._command = command
        self._admits = admits
        self._log = log
        self._thawed = thawed
        self._connections: list[_Connection] = []
        self._closed = False
        self._lock = threading.Lock()
        self._listener = socket.create_server(address, backlog=64)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening, and end every connection with all of its processes."""
        with self._lock:
            self._closed = True
            connections = list(self._connections)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._thread.join()
        self._listener.close()
        for connection in connections:
            connection.end()

    def _accept(self) -> None:
        while True:
            try:
                client, (host, _) = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            command = self._command if self._admits(host) else None
            connection = _Connection(client, command, self._log, self._thawed)
            with self._lock:
                if self._closed:
                    client.close()
                    return
                self._connections = [one for one in self._connections if one.is_alive()]
                self._connections.append(connection)
                connection.start()


class _Connection(threading.Thread):
    """Carries bytes between a client and an sshd of its own.

    It stands between the two, so that sshd sees its end when this process is killed, whatever
    the client does; and so that both can be made to wait.
    """

    def __init__(
        self,
        client: socket.socket,
        command: Callable[[], list[str]] | None,
        log: Path,
        thawed: threading.Event,
    ) -> None:
        super().__init__(daemon=True)
        self._client = client
        self._command = command
        self._log = log
        self._thawed = thawed
        self._ended = threading.Event()
        self._sshd: subprocess.Popen[bytes] | None = None
        self._starting = threading.Lock()

    def run(self) -> None:
        ours, theirs = socket.socketpair()
        with self._client, ours:
            with theirs:
                if not self._start(theirs):
                    return
            back = threading.Thread(target=self._carry, args=(ours, self._client), daemon=True)
            back.start()
            self._carry(self._client, ours)
            back.join()
        if self._sshd:
            self._sshd.wait()

    def _start(self, connection: socket.socket) -> bool:
        if not self._command:
            with contextlib.suppress(OSError):
                while self._client.recv(_PIECE):  # heard by nobody
                    pass
            return False
        self._wait_for_thaw()
        with self._starting:
            if self._ended.is_set():
                return False
            with self._log.open("ab") as log:
                self._sshd = subprocess.Popen(
                    self._command(),
                    stdin=connection.fileno(),
                    stdout=connection.fileno(),
                    stderr=log,
                    start_new_session=True,  # Ctrl-C in the terminal is the simulator's to answer
                )
        return True

    def end(self) -> None:
        """Kill sshd and all of its children, whatever they wait for."""
        with self._starting:
            self._ended.set()
        if self._sshd:
            end_tree(self._sshd)
        with contextlib.suppress(OSError):
            self._client.shutdown(socket.SHUT_RDWR)
        self.join()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(_PIECE):
                self._wait_for_thaw()
                sink.sendall(piece)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def _wait_for_thaw(self) -> None:
        while not self._thawed.wait(0.05) and not self._ended.is_set():
            pass


def end_tree(root: "subprocess.Popen[bytes]") -> None:
    """Kill a child and its descendants, and return when none of them runs any more."""
    with contextlib.ExitStack() as stack:
        handles = []
        for number in _tree(root.pid):
            with contextlib.suppress(ProcessLookupError):
                handles.append(os.pidfd_open(number))
                stack.callback(os.close, handles[-1])
        for handle in handles:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        for handle in handles:
            wait_for_end(handle)
    root.wait()


def wait_for_end(handle: int) -> None:
    """Return when the process behind a pidfd has ended; of an init, when all inside have."""
    ended = select.poll()
    ended.register(handle, select.POLLIN)
    ended.poll()


def _tree(number: int) -> Iterator[int]:
    yield number
    children: list[str] = []
    with contextlib.suppress(OSError):  # it has ended
        for task in Path(f"/proc/{number}/task").iterdir():
            children += (task / "children").read_text().split()
    for child in children:
        yield from _tree(int(child))
