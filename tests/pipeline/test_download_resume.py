"""Downloading from a server that breaks or changes: going on, but only with the same version."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from downloads import DATA, OTHER, get, got
from model.errors import InputError
from pipeline.download.fetch import Retry
from servers.file_server import FileServer, Request


@pytest.fixture
def server(server: FileServer) -> FileServer:
    server.files["/voc.tar"] = DATA
    return server


def test_a_broken_connection_goes_on_where_it_broke(server: FileServer, spool: Path) -> None:
    """More breaks than tries are fine, as long as each try brings something."""
    server.cuts = [30_000] * 9
    assert got(get(f"{server.url}/voc.tar", spool)) == DATA
    assert server.bytes_served == len(DATA)
    assert [request.status for request in server.requests] == [200] + [206] * 9


def test_a_weak_etag_is_no_ground_to_go_on(server: FileServer, spool: Path) -> None:
    server.weak = True
    server.dates = False
    server.cuts = [100_000]
    assert got(get(f"{server.url}/voc.tar", spool)) == DATA
    assert [request.status for request in server.requests] == [200, 200]


def test_without_etag_the_date_is_enough_to_go_on(server: FileServer, spool: Path) -> None:
    server.etags = False
    server.cuts = [100_000]
    assert got(get(f"{server.url}/voc.tar", spool)) == DATA
    assert server.bytes_served == len(DATA)


def test_a_server_without_ranges_is_read_from_the_start(server: FileServer, spool: Path) -> None:
    server.ranges = False
    server.cuts = [200_000, 100_000]
    assert got(get(f"{server.url}/voc.tar", spool)) == DATA
    assert [request.status for request in server.requests] == [200, 200, 200]


def test_a_server_that_always_stops_at_the_same_byte_is_given_up(
    server: FileServer, spool: Path
) -> None:
    server.ranges = False
    server.cuts = [50_000] * 99
    with pytest.raises(InputError, match="stopped at byte 50,000 and 5 tries brought no more"):
        get(f"{server.url}/voc.tar", spool)
    assert len(server.requests) == 6


def test_a_busy_server_is_asked_again(server: FileServer, spool: Path) -> None:
    server.statuses = [503, 429, 500, 502]
    assert got(get(f"{server.url}/voc.tar", spool)) == DATA


def test_a_later_call_goes_on(server: FileServer, spool: Path) -> None:
    server.cuts = [120_000, 0]
    with pytest.raises(InputError, match="to go on from there"):
        get(f"{server.url}/voc.tar", spool, retry=Retry(1, 0))
    assert got(get(f"{server.url}/voc.tar", spool)) == DATA
    assert server.requests[-1] == Request("GET", 120_000, 206)
    assert server.bytes_served == len(DATA)


def test_a_part_of_another_version_is_not_gone_on_from(server: FileServer, spool: Path) -> None:
    server.cuts = [120_000, 0]
    with pytest.raises(InputError):
        get(f"{server.url}/voc.tar", spool, retry=Retry(1, 0))
    server.files["/voc.tar"] = OTHER
    assert got(get(f"{server.url}/voc.tar", spool)) == OTHER
    assert [request.status for request in server.requests] == [200, 206, 200]


def test_a_part_of_a_longer_version_is_not_gone_on_from(server: FileServer, spool: Path) -> None:
    server.cuts = [120_000, 0]
    with pytest.raises(InputError):
        get(f"{server.url}/voc.tar", spool, retry=Retry(1, 0))
    server.files["/voc.tar"] = OTHER[:50_000]
    assert got(get(f"{server.url}/voc.tar", spool)) == OTHER[:50_000]


def test_a_server_that_ignores_the_condition_of_a_range(server: FileServer, spool: Path) -> None:
    """It sends the end of another file as if it were ours; only its ETag tells."""
    server.cuts = [120_000, 0]
    with pytest.raises(InputError):
        get(f"{server.url}/voc.tar", spool, retry=Retry(1, 0))
    server.files["/voc.tar"] = OTHER
    server.conditions = False
    assert got(get(f"{server.url}/voc.tar", spool)) == OTHER


def test_content_that_changes_between_tries(server: FileServer, spool: Path) -> None:
    server.cuts = [120_000]
    server.after_request = lambda: server.files.update({"/voc.tar": OTHER})
    assert got(get(f"{server.url}/voc.tar", spool)) == OTHER


def test_a_complete_part_costs_one_byte(server: FileServer, spool: Path) -> None:
    """As after a crash between the last byte and the store."""
    get(f"{server.url}/voc.tar", spool)
    assert got(get(f"{server.url}/voc.tar", spool)) == DATA
    assert server.bytes_served == len(DATA) + 1


def test_a_note_that_was_cut_short_starts_over(server: FileServer, spool: Path) -> None:
    server.cuts = [120_000, 0]
    with pytest.raises(InputError):
        get(f"{server.url}/voc.tar", spool, retry=Retry(1, 0))
    (note,) = spool.glob("*.version")
    note.write_text('{"size": 3')
    assert got(get(f"{server.url}/voc.tar", spool)) == DATA


KILLED = """
import sys
from pathlib import Path
from pipeline.download.fetch import Retry, fetch
from pipeline.download.spool import Room
from pipeline.download.url import ArchiveUrl

url, spool = sys.argv[1:]
fetch(
    ArchiveUrl.parse(url), Path(spool), None, Room(1 << 30), Retry(),
    lambda done, total: print(int(done), flush=True),
)
"""


def test_a_killed_download_goes_on(server: FileServer, spool: Path) -> None:
    server.files["/voc.tar"] = data = DATA * 20
    server.pause_at = 4 << 20
    command = [sys.executable, "-c", KILLED, f"{server.url}/voc.tar", str(spool)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        reached = next(int(line) for line in child.stdout if int(line) >= 3 << 20)
        child.send_signal(signal.SIGKILL)
    server.pause_at = None
    assert got(get(f"{server.url}/voc.tar", spool)) == data
    assert server.requests[-1].status == 206
    assert server.requests[-1].start >= reached
