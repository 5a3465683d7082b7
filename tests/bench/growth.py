"""What things cost against their size: seconds, memory and requests, as a table and a picture.

    PYTHONPATH=tests/support python tests/bench/growth.py [CURVES …] [--into docs/growth.png]

Every size is measured in a process of its own. Exponents are those of the step from the size
before: 1 grows in proportion, 0 not at all. Ends with 1 where any of them is above 1.15.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from machine import where

_TOO_FAST = 1.15  # an exponent, which at these sizes is known to a tenth or so


@dataclass
class Point:
    """What one size cost."""

    size: int
    seconds: float
    megabytes: float = 0.0  # at its peak; 0 where another process did the work
    requests: int | None = None


@dataclass(frozen=True)
class Curve:
    """What is measured at these sizes."""

    of: str
    unit: str
    sizes: tuple[int, ...]
    measure: Callable[[int, Path], Point]


def prepare(pairs: int, folder: Path) -> Point:
    """From an archive of photos of VOC's size to a dataset."""
    from infra.stores import Store
    from pipeline.parameters import VOC_CLASSES, Parameters
    from pipeline.preparation import TO_TRAIN, prepare_dataset

    archive = folder / "devkit.tar"
    subprocess.run(  # elsewhere, so that its memory is not counted
        [sys.executable, "-c", "import sys; from pathlib import Path; import devkits; "
         "devkits.write_devkit(Path(sys.argv[1]), pairs=int(sys.argv[2]), photos=int(sys.argv[2]))",
         str(archive), str(pairs)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
    )  # fmt: skip
    store = Store.open(str(folder / "store"))
    parameters = Parameters(archives=(str(archive),), classes=VOC_CLASSES, store=store.url)
    began = time.perf_counter()
    prepare_dataset(parameters, store, folder / "spool", (), needed=TO_TRAIN)
    return Point(pairs, time.perf_counter() - began)


def reaper(instances: int, _folder: Path) -> Point:
    """One look of the reaper at an account with so many machines of ours, none of them late.

    Its own seconds, without those in which the simulated account thinks of an answer.
    """
    from requests import PreparedRequest, Response

    from infra.reaper import reap
    from lease_world import World

    world = World()
    world.start()
    world.crowd(instances)
    world.requests = 0
    answering, answer = 0.0, world.request

    def timed(request: PreparedRequest) -> Response:
        nonlocal answering
        began = time.perf_counter()
        response = answer(request)
        answering += time.perf_counter() - began
        return response

    world.request = timed  # type: ignore[method-assign]
    began = time.perf_counter()
    report = reap(world.provider, world.store, world.clock, delete=True, say=lambda _: None)
    seconds = time.perf_counter() - began - answering
    world.close()
    assert len(report.found) == instances
    return Point(instances, seconds, requests=world.requests)


def status(runs: int, folder: Path) -> Point:
    """`voc-train status` of a store with so many runs."""
    from infra.stores import Store
    from pipeline.runs import Wanted, print_runs
    from stored import put_run

    store = Store.open(str(folder))
    for number in range(runs):
        run_id = f"260100-{number:05d}"
        put_run(store, run_id)
        store.delete(f"runs/{run_id}/receipt.json")  # which would have to be a real one
    began = time.perf_counter()
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        print_runs(store, Wanted(), as_json=False)
    return Point(runs, time.perf_counter() - began)


def requests(epochs: int, folder: Path) -> Point:
    """A whole run of the dry run's kind by a bucket; seconds are those of training."""
    from pipeline.sample_archive import SAMPLE_CLASSES, write_sample_archive
    from servers.rgw import RGW

    archive, there = folder / "shapes.tar", folder / "rgw"
    write_sample_archive(archive, train=100, val=10, unlabelled=0)
    there.mkdir()
    with RGW(there) as rgw:
        rgw.create_bucket("bench")
        before = _served(there)
        said = subprocess.run(
            [Path(sys.executable).with_name("voc-train"), "run", "local", "--json",
             "--archive", archive, "--classes", ",".join(SAMPLE_CLASSES), "--recipe", "tiny",
             "--set", f"epochs={epochs}", "--set", "min_miou=none", "--wandb", "disabled",
             "--store", "s3://bench"],
            env=os.environ | rgw.environment() | {"VOC_TRAIN_HOME": str(folder / "home")},
            stdout=subprocess.PIPE, check=True,
        ).stdout  # fmt: skip
        served = _served(there) - before
    return Point(epochs, json.loads(said)["seconds"]["train"], requests=served)


def _served(folder: Path) -> int:
    """Requests that the gateway has logged as done."""
    return sum(log.read_text(errors="replace").count("req done") for log in folder.glob("*.log"))


CURVES = {
    "prepare": Curve("preparation", "pairs", (100, 1000, 10_000), prepare),
    "reaper": Curve("a look of the reaper", "machines", (100, 1000, 10_000, 20_000), reaper),
    "status": Curve("voc-train status", "runs", (10, 100, 1000), status),
    "requests": Curve("a run by a bucket", "epochs", (5, 20, 80), requests),
}


def main() -> int:
    """Measure, show, draw; 1 where something grows faster than its size, or cannot be measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("curves", nargs="*", choices=[*CURVES, []], metavar="CURVES", default=[])
    parser.add_argument("--into", type=Path, help="a PNG for the picture")
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.size:
        with _scratch() as folder:
            point = CURVES[args.curves[0]].measure(args.size, folder)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        point.megabytes = peak / (1e6 if sys.platform == "darwin" else 1e3)
        print(json.dumps(asdict(point)))
        return 0
    table = Table("of", "size", "seconds", "peak MB", "requests", "exponents", box=None)
    late, drawn = False, {}
    for name in args.curves or CURVES:
        try:
            drawn[name] = [*_points(name)]
        except subprocess.CalledProcessError as error:  # the other curves are worth having
            print(f"{CURVES[name].of} could not be measured: {error}", file=sys.stderr)
            late = True
    for name, points in drawn.items():
        for before, point in zip([None, *points], points, strict=False):
            grows = _exponents(before, point) if before else {}
            late |= any(one > _TOO_FAST for one in grows.values())
            table.add_row(
                CURVES[name].of, f"{point.size:,} {CURVES[name].unit}", f"{point.seconds:.3g}",
                f"{point.megabytes:,.0f}", "" if point.requests is None else f"{point.requests:,}",
                ", ".join(f"{of} {one:.2f}" for of, one in grows.items()),
            )  # fmt: skip
    Console().print(table)
    if "requests" in drawn:
        *_, before, last = drawn["requests"]
        asked = (last.requests or 0) - (before.requests or 0)
        hourly = 3600 * asked / (last.seconds - before.seconds)
        print(f"A run by a bucket sends {hourly:,.0f} requests an hour of training.")
    print(where())
    if args.into and drawn:
        _draw(drawn, args.into)
    return int(late)


def _points(name: str) -> Iterator[Point]:
    for size in CURVES[name].sizes:
        said = subprocess.run(
            [sys.executable, __file__, name, "--size", str(size)],
            stdout=subprocess.PIPE, check=True,
        ).stdout  # fmt: skip
        yield Point(**json.loads(said.splitlines()[-1]))


def _exponents(before: Point, after: Point) -> dict[str, float]:
    """How seconds, memory and requests grow from one to the other, as far as they were measured."""
    grown = {
        "seconds": (before.seconds, after.seconds),
        "MB": (before.megabytes, after.megabytes),
        "requests": (before.requests, after.requests),
    }
    steps = math.log(after.size / before.size)
    return {
        of: math.log(last / first) / steps for of, (first, last) in grown.items() if first and last
    }


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="voc-train-growth-") as folder:
        os.environ["TESTS_HOME"] = folder
        yield Path(folder)


def _draw(drawn: dict[str, list[Point]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(drawn), 3.6), layout="constrained")
    for axes, (name, points) in zip(
        figure.subplots(1, len(drawn), squeeze=False)[0], drawn.items(), strict=True
    ):
        sizes = [point.size for point in points]
        axes.loglog(sizes, [point.seconds for point in points], "o-", label="seconds")
        axes.loglog(sizes, [point.megabytes for point in points], "s-", label="peak MB")
        if points[0].requests:
            axes.loglog(sizes, [point.requests or 0 for point in points], "^-", label="requests")
        linear = [points[0].seconds * size / sizes[0] for size in sizes]
        axes.loglog(sizes, linear, ":", color="0.6", label="in proportion")
        axes.set_title(CURVES[name].of)
        axes.set_xlabel(CURVES[name].unit)
        axes.set_xticks(
            sizes, [f"{size // 1000}k" if size >= 1000 else f"{size}" for size in sizes]
        )
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
