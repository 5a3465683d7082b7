"""The server that is configured is used, or the run ends before it has begun."""

import socket
from collections.abc import Iterator

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from infra.failure import Cause, Failure
from pipeline.temporary_server import prefect_server
from servers.file_server import FileServer


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port at which nobody listens, and nobody can begin to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize("configured_by", ["environment", "profile"])
def test_a_server_that_does_not_answer_is_named_with_the_cure(
    silent_port: int, configured_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://user:hunter2@127.0.0.1:{silent_port}/api"
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    if configured_by == "environment":
        monkeypatch.setenv("PREFECT_API_URL", url)
    with (
        temporary_settings({PREFECT_API_URL: url}),
        pytest.raises(Failure) as caught,
        prefect_server(),
    ):
        pass
    cure = {"environment": "`unset", "profile": "`prefect config unset"}[configured_by]
    assert caught.value.cause is Cause.BAD_INPUT
    assert str(caught.value) == (
        f"The Prefect server at http://127.0.0.1:{silent_port}/api does not answer; start it, or "
        f"run {cure} PREFECT_API_URL`."
    )


def test_a_server_that_answers_is_used(server: FileServer) -> None:
    server.files["/api/health"] = b"true"
    url = f"{server.url}/api"
    with temporary_settings({PREFECT_API_URL: url}), prefect_server():
        assert PREFECT_API_URL.value() == url
