"""Archives that fsspec opens."""

import socket
import tarfile
from pathlib import Path

import fsspec
import pytest

from downloads import DATA, OTHER, get, got
from model.errors import InputError


def test_any_fsspec_url_is_read(spool: Path) -> None:
    fsspec.filesystem("memory").pipe("/download/voc.tar", DATA)
    fetched = get("memory://download/voc.tar", spool)
    assert got(fetched) == DATA
    assert fetched is not None
    assert get("memory://download/voc.tar", spool, held=fetched.version) is None
    fsspec.filesystem("memory").pipe("/download/voc.tar", OTHER)
    assert got(get("memory://download/voc.tar", spool, held=fetched.version)) == OTHER


def test_a_part_of_the_same_version_is_gone_on_from(spool: Path) -> None:
    """A mark in the part shows that it was kept."""
    fsspec.filesystem("memory").pipe("/download/part.tar", DATA)
    get("memory://download/part.tar", spool)
    (part,) = spool.glob("*.part")
    part.write_bytes(b"mark" + DATA[4:200_000])
    assert got(get("memory://download/part.tar", spool)) == b"mark" + DATA[4:]
    fsspec.filesystem("memory").pipe("/download/part.tar", OTHER)
    assert got(get("memory://download/part.tar", spool)) == OTHER


def test_a_folder_is_refused(tmp_path: Path, spool: Path) -> None:
    with tarfile.open(tmp_path / "outer.tar", "w") as tar:
        tar.add(spool, "folder")
    with pytest.raises(InputError, match="is no file; check the URL"):
        get(f"tar://folder::{tmp_path}/outer.tar", spool)


def test_a_file_system_that_cannot_be_reached_is_named(spool: Path) -> None:
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        port = nobody_listens.getsockname()[1]
        with pytest.raises(InputError, match=r"voc.tar cannot be reached: 127.0.0.1 does not"):
            get(f"ftp://127.0.0.1:{port}/voc.tar", spool)


def test_a_file_system_that_is_not_known_is_named(spool: Path) -> None:
    with pytest.raises(InputError, match="voc.tar cannot be opened: xyz:// is unknown here"):
        get("xyz://host/voc.tar", spool)
