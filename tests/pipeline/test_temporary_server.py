"""The server that is configured is used, else one of the run's own; or the run does not begin."""

import errno
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import httpx
import pytest
from filelock import FileLock
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from infra.failure import Cause, Failure
from pipeline import temporary_server
from pipeline.temporary_server import is_temporary, prefect_server
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
        assert not is_temporary()


@pytest.fixture
def prefect_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Prefect home that nobody has used yet."""
    home = tmp_path / "prefect"
    monkeypatch.setenv("PREFECT_HOME", str(home))
    with temporary_settings({PREFECT_HOME: home}):
        yield home


def test_two_runs_that_start_at_once_in_a_new_home_both_get_a_server(prefect_home: Path) -> None:
    both_run = Barrier(2, timeout=120)

    def run(_: int) -> int:
        try:
            with temporary_settings({PREFECT_HOME: prefect_home}), prefect_server():
                both_run.wait()
                assert is_temporary()
                return httpx.get(f"{PREFECT_API_URL.value()}/health").status_code
        except BaseException:
            both_run.abort()
            raise

    with ThreadPoolExecutor(2) as runs:
        assert list(runs.map(run, range(2))) == [200, 200]


def test_a_turn_that_does_not_come_is_said_with_the_cure(
    prefect_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(temporary_server, "_PATIENCE_WITH_OTHERS", 0.0)
    lock = prefect_home / "voc-train-start.lock"
    with FileLock(lock), pytest.raises(Failure) as caught, prefect_server():
        pass
    assert str(lock) in str(caught.value)
    assert "PREFECT_API_URL" in str(caught.value)


def test_a_home_that_takes_no_file_is_named_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    home = tmp_path / "file" / "prefect"
    with (
        temporary_settings({PREFECT_HOME: home}),
        pytest.raises(Failure) as caught,
        prefect_server(),
    ):
        pass
    assert caught.value.cause is Cause.BAD_INPUT
    assert str(caught.value) == (
        f"Prefect's home {home} takes no file ({os.strerror(errno.ENOTDIR)}); name another "
        "folder in PREFECT_HOME."
    )


def test_a_server_that_does_not_start_says_why(prefect_home: Path) -> None:
    prefect_home.mkdir()
    (prefect_home / "prefect.db").write_text("no database" * 1000)
    with pytest.raises(Failure, match="file is not a database") as caught, prefect_server():
        pass
    assert f"if the database in {prefect_home} is at fault" in str(caught.value)
