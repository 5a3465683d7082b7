"""extract as a process: short of disk, killed, and in flat memory."""

import gzip
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from archives import FILES, keys, left
from infra.stores import Store
from pipeline.stages.extract import extract
from servers.file_server import FileServer
from tars import packed

FULL = """
import resource, sys
from pathlib import Path
from infra.stores import Store
from model.errors import InputError
from pipeline.stages.extract import extract

resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    extract(sys.argv[1], Store.open(sys.argv[2]), Path(sys.argv[3]))
except InputError as error:
    print(error)
"""


def test_no_room_to_unpack_keeps_the_download(
    server: FileServer, store: Store, spool: Path
) -> None:
    """The disk is too small for the tar by a limit on file sizes, and then it is not."""
    tgz = gzip.compress(packed({"a.bin": os.urandom(60_000), "b.bin": bytes(9 << 20)}))
    server.files["/voc.tgz"] = tgz
    command = [sys.executable, "-c", FULL, f"{server.url}/voc.tgz", store.url, str(spool)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "cannot be written (File too large); free some space" in said
    assert {Path(name).suffix for name in left(spool)} == {".part", ".version"}
    archive, _ = extract(f"{server.url}/voc.tgz", store, spool)
    assert archive.members == 2
    assert server.bytes_served == len(tgz) + 1


RUN = """
import sys
from pathlib import Path
from infra.stores import Store
from pipeline.stages.extract import extract

url, store, spool = sys.argv[1:]
archive, _ = extract(
    url, Store.open(store), Path(spool), report=lambda done, total: print(int(done), flush=True)
)
print(Path("/proc/self/status").read_text())
"""


def test_a_killed_run_goes_on(server: FileServer, store: Store, spool: Path) -> None:
    server.files["/voc.tar"] = large = packed(FILES | {"large.bin": os.urandom(8 << 20)})
    server.pause_at = 5 << 20
    command = [sys.executable, "-c", RUN, f"{server.url}/voc.tar", store.url, str(spool)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        next(line for line in child.stdout if int(line) >= 4 << 20)
        child.send_signal(signal.SIGKILL)
    assert keys(store) == set()
    server.pause_at = None
    archive, _ = extract(f"{server.url}/voc.tar", store, spool)
    assert store.get(archive.tar_key) == large
    assert server.bytes_served < len(large) + (2 << 20)


def peak_kilobytes(url: str, store: Store, spool: Path) -> int:
    """The most memory a run ever had; what getrusage says would include the forking parent's."""
    command = [sys.executable, "-c", RUN, url, store.url, str(spool)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(said[said.index("VmHWM:") + 1])


def zeros(megabytes: int, pack: Callable[[bytes], bytes]) -> Iterator[bytes]:
    """A tar of files of 10 MB, in pieces: each gzip'd on its own, they are a gzip file too."""
    body = pack(bytes(10 << 20))
    for number in range(megabytes // 10):
        entry = tarfile.TarInfo(f"{number}.jpg")
        entry.size = 10 << 20
        yield pack(entry.tobuf())
        yield body
    yield pack(bytes(1024))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
@pytest.mark.parametrize("kind", ["plain", "gzip", "http"])
def test_memory_is_flat(server: FileServer, tmp_path: Path, kind: str) -> None:
    peaks = []
    for megabytes in (30, 300):
        path = tmp_path / f"{megabytes}.tar"
        with path.open("wb") as file:
            file.writelines(zeros(megabytes, gzip.compress if kind == "gzip" else bytes))
        url = str(path)
        if kind == "http":
            server.files[f"/{path.name}"] = path.read_bytes()
            url = f"{server.url}/{path.name}"
        store = Store.open(str(tmp_path / f"store-{megabytes}"))
        peaks.append(peak_kilobytes(url, store, tmp_path / f"spool-{megabytes}"))
    assert peaks[1] - peaks[0] < 40 << 10, peaks
