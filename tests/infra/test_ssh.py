"""SSH to a real sshd: commands, files, and ends that come in time."""

import hashlib
import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agents import until
from infra.failure import Cause, Failure
from infra.ssh import CommandFailed, Connection, Lost
from servers.sshd import SSHD

_IMPATIENT = 0.5  # seconds
_LOGGED_IN = 2.0  # seconds, within which a busy computer logs in as well
_LONG = 8 << 30  # bytes, of a file with nothing in it: nobody sends that before we look


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[SSHD]:
    with SSHD(tmp_path / "machine") as machine:
        yield machine


@pytest.fixture
def connection(machine: SSHD) -> Iterator[Connection]:
    with machine.connect() as connection:
        yield connection


def test_a_command_reads_its_input_and_returns_what_it_printed(connection: Connection) -> None:
    assert connection.run("tr a-z A-Z; echo not this >&2", b"this") == "THIS"


def test_three_full_streams_do_not_block_each_other(connection: Connection) -> None:
    """Each is more than an SSH window (2 MiB): who reads one after the other waits for ever."""
    size = 5 << 20
    command = f"head -c {size} /dev/zero >&2; head -c {size} /dev/zero; cat"
    assert len(connection.run(command, bytes(size), timeout=60)) == 2 * size


def test_a_command_that_does_not_read_its_input_still_ends(connection: Connection) -> None:
    assert connection.run("echo done", bytes(5 << 20)) == "done\n"


def test_a_failing_command_says_why(connection: Connection) -> None:
    with pytest.raises(CommandFailed, match=r"ended with code 7: no room here") as caught:
        connection.run("echo on its way; echo no room here >&2; exit 7")
    assert (caught.value.code, caught.value.cause) == (7, Cause.SETUP_FAILED)
    with pytest.raises(CommandFailed, match="by a signal"):
        connection.run("kill -9 $$")
    assert connection.run("echo still here") == "still here\n"


def test_output_without_end_is_refused(connection: Connection) -> None:
    with pytest.raises(Failure, match="more than 64 MiB"):
        connection.run("yes", timeout=60)


def test_a_command_that_does_not_end_is_given_up(connection: Connection) -> None:
    with pytest.raises(Lost, match=r"no answer within 0.5 s"):
        connection.run("sleep 600", timeout=_IMPATIENT)


def test_a_machine_that_freezes_is_noticed(machine: SSHD, tmp_path: Path) -> None:
    (machine.home / "file").write_bytes(b"content")
    for use in (
        lambda c: c.run("true"),
        lambda c: c.get(f"{machine.home}/file"),
        lambda c: c.get_file(f"{machine.home}/file", tmp_path / "file"),
        lambda c: c.put(b"new", f"{machine.home}/file", timeout=_IMPATIENT),
    ):
        with machine.connect(timeout=_LOGGED_IN) as connection:
            connection.run("true")
            machine.freeze()
            with pytest.raises(Lost):
                use(connection)
        machine.kill()
        machine.start()
    assert not (tmp_path / "file").exists()
    with machine.connect(timeout=_LOGGED_IN) as connection:  # frozen when SFTP is open already
        assert connection.get(f"{machine.home}/file") == b"content"
        machine.freeze()
        with pytest.raises(Lost):
            connection.get(f"{machine.home}/file")


def test_a_file_comes_whole_or_not_at_all(
    machine: SSHD, connection: Connection, tmp_path: Path
) -> None:
    content = random.Random(0).randbytes(3 << 20)
    (machine.home / "file").write_bytes(content)
    assert connection.get(f"{machine.home}/file") == content
    assert connection.get(f"{machine.home}/none") is None

    here = tmp_path / "new" / "file"
    with pytest.raises(Failure, match="damaged") as caught:
        connection.get_file(f"{machine.home}/file", here, sha256="0" * 64)
    assert caught.value.cause is Cause.CORRUPT
    with pytest.raises(FileNotFoundError):
        connection.get_file(f"{machine.home}/none", here)
    assert not list(here.parent.iterdir())
    digest = hashlib.sha256(content).hexdigest()
    connection.get_file(f"{machine.home}/file", here, sha256=digest)
    assert here.read_bytes() == content


def test_a_server_killed_while_it_sends_leaves_no_file(machine: SSHD, tmp_path: Path) -> None:
    here = tmp_path / "here"
    with (machine.home / "file").open("wb") as file:
        file.truncate(_LONG)
    with machine.connect() as connection, ThreadPoolExecutor() as pool:
        got = pool.submit(connection.get_file, f"{machine.home}/file", here / "file")
        until(lambda: any(part.stat().st_size for part in here.glob(".*/part")))
        machine.kill()
        with pytest.raises(Lost):
            got.result()
    assert not list(here.iterdir())


def test_a_file_is_put_with_its_mode_and_its_folders(
    machine: SSHD, connection: Connection, tmp_path: Path
) -> None:
    path = machine.home / "a folder" / "it's a $file"
    connection.put(b"secret", str(path))
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"secret", 0o600)
    assert path.parent.stat().st_mode & 0o777 == 0o700

    (tmp_path / "large").write_bytes(os.urandom(3 << 20))
    connection.put(tmp_path / "large", str(path), 0o640)
    assert path.read_bytes() == (tmp_path / "large").read_bytes()
    assert path.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_put_that_is_cut_short_shows_nothing_and_changes_nothing(
    machine: SSHD, tmp_path: Path
) -> None:
    (machine.home / "file").write_text("old")
    with (tmp_path / "new").open("wb") as file:
        file.truncate(_LONG)
    with machine.connect() as connection, ThreadPoolExecutor() as pool:
        put = pool.submit(connection.put, tmp_path / "new", f"{machine.home}/file", 0o644)
        until(lambda: any(part.stat().st_size for part in machine.home.glob(".part-*")))
        modes = {part.stat().st_mode & 0o777 for part in machine.home.glob(".part-*")}
        machine.kill()
        with pytest.raises(Lost):
            put.result()
    assert modes == {0o600}
    until(lambda: not list(machine.home.glob(".part-*")))  # what it had is removed there
    assert (machine.home / "file").read_text() == "old"
