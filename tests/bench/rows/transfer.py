"""The store's bucket, an RGW over TLS on this computer: against s3fs, both ways.

The s3fs of today wants another botocore than boto3 does, so it lives in an environment of its own:

    python -m venv s3fs && s3fs/bin/pip install s3fs
    VOC_TRAIN_S3FS=s3fs/bin/python make bench
"""

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import psutil

from infra.concurrently import concurrently
from infra.stores import Store
from model.device import usable_cores
from pairs import NotMeasured, Row
from servers.rgw import RGW

_PYTHON = "VOC_TRAIN_S3FS"
_SETS = (("2,000 x 50 kB", 2000, 50_000), ("256 MB", 1, 256_000_000))
_WHAT = "store transfer, RGW over TLS: {}, {}"
_AGAINST, _TARGET = "s3fs", 2

# Told a way, a folder and a prefix, it moves all and says how many seconds that took.
_S3FS = """
import os, sys, time
from pathlib import Path
import s3fs
fs = s3fs.S3FileSystem(client_kwargs={"verify": os.environ["AWS_CA_BUNDLE"]},
                       config_kwargs={"request_checksum_calculation": "when_required"})
for line in sys.stdin:
    way, folder, prefix, *names = line.split()
    here = [str(Path(folder) / name) for name in names]
    there = [f"bench/{prefix}/{name}" for name in names]
    began = time.perf_counter()
    fs.put_file(here[0], there[0]) if way == "up" and len(names) == 1 else \\
        fs.put(here, there) if way == "up" else \\
        fs.get_file(there[0], here[0]) if len(names) == 1 else fs.get(there, here)
    print(time.perf_counter() - began, flush=True)
"""


def rows(folder: Path) -> Iterator[Row | NotMeasured]:
    """Objects as small as a photo, and one as large as a shard."""
    python = os.environ.get(_PYTHON)
    if not python:
        for size, _, _ in _SETS:
            for way in ("up", "down"):
                why = f"needs {_PYTHON}, a Python with s3fs"
                yield NotMeasured(_WHAT.format(size, way), _AGAINST, f"≥ {_TARGET}x", why)
        return
    (folder / "rgw").mkdir()
    with RGW(folder / "rgw") as rgw:
        os.environ.update(rgw.environment())
        rgw.create_bucket("bench")
        store = Store.open("s3://bench")
        with subprocess.Popen(
            [python, "-c", _S3FS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other:
            for size, number, each in _SETS:
                here = folder / f"of-{each}"
                here.mkdir()
                names = [f"{i:05d}" for i in range(number)]
                for name in names:
                    (here / name).write_bytes(os.urandom(each))
                yield _up(store, other, size, here, names)
                yield _down(store, other, size, here, names)
            assert other.stdin
            other.stdin.close()


def _up(store: Store, other: subprocess.Popen[str], size: str, here: Path, names: list[str]) -> Row:
    number = count()

    def ours() -> None:
        prefix = f"ours-{next(number)}"
        concurrently(lambda name: store.put_file(f"{prefix}/{name}", here / name), names)

    def theirs() -> float:
        return _told(other, "up", here, f"theirs-{len(names)}", names)

    return _row(size, "up", ours, theirs)


def _down(
    store: Store, other: subprocess.Popen[str], size: str, here: Path, names: list[str]
) -> Row:
    arriving = here.with_name(f"{here.name}-back")
    arriving.mkdir()
    prefix = f"theirs-{len(names)}"  # which the way up has left there

    def ours() -> None:
        concurrently(lambda name: store.get_file(f"{prefix}/{name}", arriving / name), names)

    def theirs() -> float:
        return _told(other, "down", arriving, prefix, names)

    return _row(size, "down", ours, theirs)


def _row(size: str, way: str, ours: Callable[[], None], theirs: Callable[[], float]) -> Row:
    """What the gateway does of it is told where the target is missed: it has the same cores."""
    spent: list[float] = []
    own: list[float] = []

    def watched() -> float:
        here, gateway = psutil.Process(), psutil.Process().children(recursive=True)
        began, before = time.perf_counter(), [_processor(here), sum(map(_processor, gateway))]
        ours()
        seconds = time.perf_counter() - began
        own.append(_processor(here) - before[0])
        spent.append(sum(map(_processor, gateway)) - before[1])
        return seconds

    return Row(
        _WHAT.format(size, way), _AGAINST, "times as fast", _TARGET, watched, theirs,
        if_missed=lambda: f"the gateway itself takes {statistics.median(spent):.2g} s of "
        f"processor time, ours {statistics.median(own):.2g} s, of {usable_cores()} cores that "
        "they share.",
    )  # fmt: skip


def _processor(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _told(
    other: subprocess.Popen[str], way: str, folder: Path, prefix: str, names: list[str]
) -> float:
    assert other.stdin
    assert other.stdout
    print(way, folder, prefix, *names, file=other.stdin, flush=True)
    return float(other.stdout.readline())
