"""A Prefect server for one run of the command line, where none is configured.

Prefect would start one by itself, but in our process group: Ctrl-C in a terminal would end it
before the run has stopped, and it would outlive a killed run.
"""

import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import IO

import httpx
from filelock import FileLock, Timeout
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from infra.failure import Cause, Failure
from infra.processes import end_group, end_with_parent
from infra.urls import without_secrets

_PATIENCE = 180.0  # seconds; the first start makes a database
_PATIENCE_WITH_OTHERS = 600.0  # seconds, while other runs start theirs
# The line in which a traceback, or a port that is taken, says what was wrong.
_REASON = re.compile(r"^[\w.]*(?:Error|Exception): .+|\[Errno .+", re.MULTILINE)

_temporary = ContextVar("temporary", default=False)


def is_temporary() -> bool:
    """Whether the server of this run is one of our own, which nobody else's runs wait at."""
    return _temporary.get()


@contextlib.contextmanager
def prefect_server() -> Iterator[None]:
    """Use the server that is configured, or one of our own that ends with the block.

    Raises:
        Failure: the one that is configured does not answer, or our own does not start: by itself,
            or because other runs are starting theirs, or because Prefect's home takes no file.
    """
    if url := PREFECT_API_URL.value():
        _must_answer(url)
        yield
        return
    with contextlib.ExitStack() as ending:
        # Two servers that make the database at once, or bring it up to date, fail one another.
        turn = ending.enter_context(_turn(PREFECT_HOME.value() / "voc-train-start.lock"))
        said = ending.enter_context(tempfile.TemporaryFile())
        port = _free_port()
        server = _start(port, said)
        ending.callback(_end, server)
        # Importing the flow takes seconds, in which the server can start.
        import pipeline.flow  # noqa: F401

        url = f"http://127.0.0.1:{port}/api"
        _await(server, f"{url}/health", said)
        turn.release()
        token = _temporary.set(True)
        ending.callback(_temporary.reset, token)
        with temporary_settings({PREFECT_API_URL: url}):
            yield


def _must_answer(url: str) -> None:
    with get_client(sync_client=True) as client:
        problem = client.api_healthcheck()
    if isinstance(problem, httpx.TransportError):
        # Where the environment does not say it, a profile does: `prefect config set` was used.
        unset = "unset" if "PREFECT_API_URL" in os.environ else "prefect config unset"
        raise Failure(
            Cause.BAD_INPUT,
            f"The Prefect server at {without_secrets(url)} does not answer; start it, or run "
            f"`{unset} PREFECT_API_URL`.",
        ) from problem


@contextlib.contextmanager
def _turn(path: Path) -> Iterator[FileLock]:
    """Nobody else with this Prefect home starts a server until the lock is released."""
    lock = FileLock(path)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock.acquire(timeout=_PATIENCE_WITH_OTHERS)
    except Timeout:
        raise Failure(
            Cause.INTERNAL,
            f"Other runs have been starting Prefect for {_PATIENCE_WITH_OTHERS / 60:.0f} minutes "
            f"and hold {path}; end the one that hangs, or let all of them use one server: "
            "`prefect server start`, with its address in PREFECT_API_URL.",
        ) from None
    except OSError as error:
        raise Failure(
            Cause.BAD_INPUT,
            f"Prefect's home {path.parent} takes no file ({error.strerror}); name another folder "
            "in PREFECT_HOME.",
        ) from error
    try:
        yield lock
    finally:
        lock.release()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _start(port: int, said: IO[bytes]) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "prefect", "server", "start", "--no-services", "--no-ui"]
    return subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=said,
        start_new_session=True,
        preexec_fn=end_with_parent,
    )


def _await(server: "subprocess.Popen[bytes]", health: str, said: IO[bytes]) -> None:
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until and server.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(health, timeout=5).is_success:
                return
        time.sleep(0.1)
    said.seek(0)
    reasons = _REASON.findall(said.read().decode(errors="replace"))
    silent = "no answer" if server.poll() is None else f"exit status {server.returncode}"
    reason = without_secrets(reasons[-1])[:300] if reasons else silent
    raise Failure(
        Cause.INTERNAL,
        f"Prefect's temporary server did not start ({reason}). `prefect server start` shows the "
        f"whole of it; if the database in {PREFECT_HOME.value()} is at fault, move it away and a "
        "new one is made.",
    )


def _end(server: "subprocess.Popen[bytes]") -> None:
    server.terminate()
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        end_group(server)
