"""SSH to a machine whose host key is known beforehand: commands, files, and nothing that hangs.

No key is ever accepted because it is new. Every wait has an end, since a machine that froze
answers nothing and closes nothing, and paramiko alone would wait for ever.
"""

import contextlib
import hashlib
import io
import os
import select
import shlex
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Self

import paramiko

from infra.failure import Cause, Failure
from infra.provider import Endpoint
from infra.ssh.keys import KeyPair
from infra.ssh.login import log_in

TIMEOUT = 20.0  # seconds without an answer
_PIECE = 32 << 10  # bytes sent at once
_MOST = 64 << 20  # bytes of a command's output
_TAIL = 64 << 10  # bytes kept of what it complained about


class Lost(Failure):
    """The connection broke or froze; the machine may be well. A new connection may do."""

    def __init__(self, message: str) -> None:
        super().__init__(Cause.STALLED, message)


class CommandFailed(Failure):
    """A command ended with another code than 0; `said` is the end of what it said."""

    def __init__(self, where: str, code: int, said: str) -> None:
        how = f"with code {code}" if code >= 0 else "by a signal"
        last = " ".join(said.strip().splitlines()[-3:])[-500:] or "it said nothing"
        super().__init__(Cause.SETUP_FAILED, f"A command on {where} ended {how}: {last}")
        self.code = code
        self.said = said


class Connection:
    """An open connection; `with` closes it.

    Without a `key`, the user's own keys and agent serve; without a `host_key` (public, one line),
    what the user's ~/.ssh/known_hosts says. Raises NotYet or HostKeyMismatch.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        key: KeyPair | None = None,
        host_key: str | None = None,
        *,
        timeout: float = TIMEOUT,
    ) -> None:
        self.endpoint = endpoint
        self.key = key
        self.where = f"{endpoint.user}@{endpoint.host}"
        self._timeout = timeout
        self._sftp: paramiko.SFTPClient | None = None
        self._home: str | None = None
        self._client, self._socket = log_in(endpoint, key, host_key, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it; harmless when it is closed or lost."""
        self._client.close()
        self._socket.close()

    def home(self) -> str:
        """Absolute path of the user's home on the machine."""
        if self._home is None:
            self._home = self.run('printf %s "$HOME"')
        return self._home

    def run(
        self, command: str, input: bytes | IO[bytes] = b"", *, timeout: float | None = None
    ) -> str:
        """Run a command in the user's shell and return what it printed.

        It reads `input`, and has `timeout` seconds. Raises CommandFailed when it ends with another
        code than 0, Lost when the connection or the time is over.
        """
        output, complaints = bytearray(), bytearray()
        source = io.BytesIO(input) if isinstance(input, bytes) else input
        with (
            self._bounded(timeout or self._timeout) as transport,
            transport.open_session(timeout=self._timeout) as channel,
        ):
            channel.settimeout(self._timeout)
            channel.exec_command(command)
            piece = source.read(_PIECE)
            if not piece:
                channel.shutdown_write()
            # Both streams and the input by turns: whoever waits for one fills the others.
            over = False
            while not over:
                select.select([channel], [], [], 0 if piece else 0.1)
                over = channel.closed or bool(channel.exit_status_ready() and channel.eof_received)
                while channel.recv_ready():
                    output += channel.recv(_TAIL)
                while channel.recv_stderr_ready():
                    complaints += channel.recv_stderr(_TAIL)
                    del complaints[:-_TAIL]
                if len(output) > _MOST:
                    raise Failure(
                        Cause.SETUP_FAILED,
                        f"A command on {self.where} printed more than {_MOST >> 20} MiB.",
                    )
                if piece and not over and channel.send_ready():
                    piece = piece[channel.send(piece) :] or source.read(_PIECE)
                    if not piece:
                        channel.shutdown_write()
            code = channel.recv_exit_status()
            if code == -1 and not (channel.eof_received and transport.is_active()):
                raise EOFError("it broke")
        if code != 0:
            raise CommandFailed(self.where, code, _text(complaints) or _text(output[-_TAIL:]))
        return _text(output)

    def put(
        self, content: bytes | Path, path: str, mode: int = 0o600, *, timeout: float = 600
    ) -> None:
        """Write a file, whole or not at all, which until then nobody but the user can read.

        Folders that are missing are made. SFTP is no use here: with paramiko it makes a file that
        everybody may open, and restricts it afterwards.
        """
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        script = (
            # Complaining to nobody must not end it before it has cleaned up.
            "set -eu; umask 077; trap '' PIPE; mkdir -p -- {folder}; "
            "part=$(mktemp {folder}/.part-XXXXXX); trap 'rm -f \"$part\"' EXIT; "
            'cat >"$part"; '
            # A connection that breaks ends the input just as the end of the file does.
            '[ "$(wc -c <"$part")" -eq {size} ] || {{ echo "it arrived in part" >&2; exit 1; }}; '
            'chmod {mode:o} "$part"; mv -f -- "$part" {path}'
        ).format(
            folder=shlex.quote(os.path.dirname(path) or "."),  # noqa: PTH120 not of this computer
            size=size,
            mode=mode,
            path=shlex.quote(path),
        )
        with contextlib.ExitStack() as stack:
            source: bytes | IO[bytes] = (
                stack.enter_context(content.open("rb")) if isinstance(content, Path) else content
            )
            self.run(f"sh -c {shlex.quote(script)}", source, timeout=timeout)

    def get(self, path: str) -> bytes | None:
        """Content of a file, or None when there is none."""
        content = io.BytesIO()
        try:
            self._receive(path, content)
        except FileNotFoundError:
            return None
        return content.getvalue()

    def get_file(self, path: str, local: Path, *, sha256: str | None = None) -> None:
        """Bring a file to `local`, whole and verified or not at all.

        Raises FileNotFoundError, Failure(CORRUPT) when it has another sha256, or Lost.
        """
        local.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".", dir=local.parent) as arriving:
            part = Path(arriving, "part")
            with part.open("w+b") as file:
                self._receive(path, file)
                file.seek(0)
                if sha256 and hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    raise Failure(
                        Cause.CORRUPT,
                        f"{path} on {self.where} is damaged: its sha256 is not {sha256[:12]}…",
                    )
            part.replace(local)

    def _receive(self, path: str, file: IO[bytes]) -> None:
        """All of a file, for as long as something comes.

        Paramiko's SFTP asks for a piece at a time, which is slow from afar, or for many from a
        thread of its own, whose errors nobody can catch.
        """
        with self.sftp() as sftp:
            size = sftp.stat(path).st_size
        with self._bounded(self._timeout) as transport:
            channel = transport.open_session(timeout=self._timeout)
            channel.settimeout(self._timeout)
            channel.exec_command(f"cat -- {shlex.quote(path)}")
        with self._loss_told(), channel:
            while piece := channel.recv(_TAIL):
                file.write(piece)
        if file.tell() != size:
            raise Lost(f"Only {file.tell()} of {size} bytes of {path} came from {self.where}.")

    @contextmanager
    def sftp(self) -> Iterator[paramiko.SFTPClient]:
        """File operations on the machine; they raise OSError, and Lost when the line is."""
        if self._sftp is None:
            with self._bounded(self._timeout):
                self._sftp = self._client.open_sftp()
                self._sftp.get_channel().settimeout(self._timeout)  # type: ignore[union-attr]
        with self._loss_told():
            yield self._sftp

    @contextmanager
    def _bounded(self, seconds: float) -> Iterator[paramiko.Transport]:
        """Cut the connection when this takes longer; some of paramiko's waits have no end."""
        expired = threading.Event()

        def cut() -> None:
            expired.set()
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(seconds, cut)
        timer.daemon = True
        timer.start()
        try:
            with self._loss_told():
                transport = self._client.get_transport()
                if transport is None or not transport.is_active():
                    raise EOFError("it is closed")
                yield transport
        except (Lost, OSError):
            if expired.is_set():
                raise Lost(f"{self.where} gave no answer within {seconds:g} s.") from None
            raise
        finally:
            timer.cancel()
            timer.join()

    @contextmanager
    def _loss_told(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, paramiko.SSHException, TimeoutError, ConnectionError) as error:
            said = str(error) or type(error).__name__
            raise Lost(f"The connection to {self.where} was lost ({said}).") from error
        except OSError as error:
            if error.errno is None and str(error) == "Socket is closed":
                raise Lost(f"The connection to {self.where} was lost.") from error
            raise


def _text(said: bytes | bytearray) -> str:
    return bytes(said).decode(errors="replace")
