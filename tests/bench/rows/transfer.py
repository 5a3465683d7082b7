"""The store's bucket, an RGW over TLS on this computer: against s3fs, both ways.

The s3fs of today wants another botocore than boto3 does, so it lives in an environment of its own:

    python -m venv s3fs && s3fs/bin/pip install s3fs
    VOC_TRAIN_S3FS=s3fs/bin/python make bench
"""

import os
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from infra.concurrently import concurrently
from infra.stores import Store
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

    return Row(_WHAT.format(size, "up"), _AGAINST, "times as fast", _TARGET, ours, theirs)


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

    return Row(_WHAT.format(size, "down"), _AGAINST, "times as fast", _TARGET, ours, theirs)


def _told(
    other: subprocess.Popen[str], way: str, folder: Path, prefix: str, names: list[str]
) -> float:
    assert other.stdin
    assert other.stdout
    print(way, folder, prefix, *names, file=other.stdin, flush=True)
    return float(other.stdout.readline())
