"""What several tests of this room begin with: store, spool, and an archive here and on a server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from archives import TAR
from infra.stores import Store
from servers.file_server import FileServer


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store in a folder."""
    return Store.open(str(tmp_path / "store"))


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """An empty folder for downloads."""
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """An archive on this computer."""
    path = tmp_path / "voc.tar"
    path.write_bytes(TAR)
    return path


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """The same archive on a file server, as /voc.tar."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FileServer() as server:
        server.files["/voc.tar"] = TAR
        yield server
