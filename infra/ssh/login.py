"""Logging in by SSH where the host key is known beforehand, or not at all.

No key is ever accepted because it is new.
"""

import contextlib
import io
import logging
import socket
from binascii import a2b_base64
from typing import NoReturn

import paramiko

from infra.failure import Cause, Failure
from infra.provider import Endpoint
from infra.ssh.keys import KeyPair

# It logs what it raises as well, with tracebacks, to whatever terminal this is.
logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)


class NotYet(Failure):
    """Nobody lets us in there: the machine may still be booting, so try again."""


class HostKeyMismatch(Failure):
    """Whoever answers there has another host key. Early in a boot that means: not ready yet."""

    def __init__(self, where: str) -> None:
        super().__init__(
            Cause.HOST_KEY,
            f"{where} shows another host key than the one it was given. Stop: somebody may be in "
            "between, or the address may belong to another machine by now. Nothing was sent there.",
            permanent=True,
        )


def log_in(
    endpoint: Endpoint, key: KeyPair | None, host_key: str | None, timeout: float
) -> tuple[paramiko.SSHClient, socket.socket]:
    """A client that is logged in, and the socket below it; no step takes more than `timeout` s.

    Without a `key`, the user's own keys and agent serve; without a `host_key` (public, one line),
    what the user's ~/.ssh/known_hosts says. Raises NotYet or HostKeyMismatch, and
    Failure(BAD_INPUT) for a host that ~/.ssh/known_hosts does not know.
    """
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    if host_key is None:
        with contextlib.suppress(FileNotFoundError):
            client.load_system_host_keys()
    else:
        known = paramiko.PKey.from_type_string(*_parts(host_key))
        client.get_host_keys().add(known_name(endpoint), known.get_name(), known)
    own = None if key is None else paramiko.Ed25519Key.from_private_key(io.StringIO(key.private))
    line: socket.socket | None = None
    try:
        line = _dial(endpoint, timeout)
        client.connect(
            endpoint.host,
            endpoint.port,
            endpoint.user,
            pkey=own,
            sock=line,
            timeout=timeout,
            banner_timeout=timeout,
            auth_timeout=timeout,
            channel_timeout=timeout,
            allow_agent=own is None,
            look_for_keys=own is None,
        )
    except BaseException as error:
        client.close()
        if line is not None:
            line.close()
        if isinstance(error, (paramiko.SSHException, OSError, EOFError)):
            # What fails first with a rented machine is its boot, with the user's own its address.
            cause = Cause.BAD_INPUT if host_key is None else Cause.BOOT_TIMEOUT
            _explain(endpoint, error, cause)
        raise
    return client, line


def _parts(public: str) -> tuple[str, bytes]:
    kind, blob = public.split()[:2]
    return kind, a2b_base64(blob)


def known_name(endpoint: Endpoint) -> str:
    """How known_hosts, and therefore paramiko, names it."""
    return endpoint.host if endpoint.port == 22 else f"[{endpoint.host}]:{endpoint.port}"


def _dial(endpoint: Endpoint, timeout: float) -> socket.socket:
    line = socket.create_connection((endpoint.host, endpoint.port), timeout)
    # Small packets wait for company otherwise, which makes SFTP thirty times slower.
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux only: a dead line is noticed by the kernel
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(timeout * 1000))
    return line


def _explain(endpoint: Endpoint, error: Exception, cause: Cause) -> NoReturn:
    where = f"{endpoint.user}@{endpoint.host}"
    if isinstance(error, paramiko.BadHostKeyException):
        raise HostKeyMismatch(where) from error
    if isinstance(error, paramiko.AuthenticationException):
        raise NotYet(cause, f"{where} lets nobody in with this key.") from error
    if isinstance(error, paramiko.SSHException) and "known_hosts" in str(error):
        raise Failure(
            Cause.BAD_INPUT,
            f"{known_name(endpoint)} is not in ~/.ssh/known_hosts: log in once by `ssh -p "
            f"{endpoint.port} {where}`, compare the fingerprint, and try again.",
            permanent=True,
        ) from error
    said = str(error) or type(error).__name__
    raise NotYet(
        cause, f"No SSH server answers at {endpoint.host} port {endpoint.port}: {said}"
    ) from error
