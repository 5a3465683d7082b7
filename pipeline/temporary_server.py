"""A Prefect server for one run of the command line, where none is configured.

Prefect would start one by itself, but in our process group: Ctrl-C in a terminal would end it
before the run has stopped, and it would outlive a killed run.
"""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from infra.failure import Cause, Failure
from infra.processes import end_group, end_with_parent
from infra.urls import without_secrets

_PATIENCE = 180.0  # seconds; the first start makes a database


@contextlib.contextmanager
def prefect_server() -> Iterator[None]:
    """Use the server that is configured, or one of our own that ends with the block.

    Raises:
        Failure: the one that is configured does not answer, or our own does not start.
    """
    if url := PREFECT_API_URL.value():
        _must_answer(url)
        yield
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "prefect", "server", "start", "--no-services", "--no-ui"]
    server = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=end_with_parent,
    )
    try:
        # Importing the flow takes seconds, in which the server can start.
        import pipeline.flow  # noqa: F401

        url = f"http://127.0.0.1:{port}/api"
        _await(server, f"{url}/health")
        with temporary_settings({PREFECT_API_URL: url}):
            yield
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            end_group(server)


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


def _await(server: "subprocess.Popen[bytes]", health: str) -> None:
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until and server.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(health, timeout=5).is_success:
                return
        time.sleep(0.1)
    raise Failure(
        Cause.INTERNAL,
        "Prefect's temporary server did not start; `prefect server start` shows why.",
    )
