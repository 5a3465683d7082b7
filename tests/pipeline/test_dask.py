"""Preparation on a real Dask cluster of two workers: the same dataset, whatever is lost."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import psutil
import pytest
from distributed import Client, LocalCluster
from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from commands import VocTrain
from devkit import devkit, jpeg, mask_of, palette_png
from infra.failure import Cause, Failure
from infra.stores import Store
from model.errors import InputError
from model.manifest import Manifest
from pipeline import dask_cluster
from pipeline.dask_cluster import preparers
from pipeline.dataset import is_whole
from pipeline.flow import prepared_in_store
from pipeline.flow import voc_train as voc_train_flow
from pipeline.parameters import Limits, Parameters, RentalTerms, home
from pipeline.progress import listening, who_listens
from pipeline.run import Run
from pipeline.sweeping import sweep
from rentals import Listener

pytestmark = pytest.mark.usefixtures("flows")
SIDE = 400  # pixels; some six pairs of such noise fill a shard of a megabyte
SMALL: dict[str, Any] = {"threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Two workers whose home, and so whose spool, is not ours."""
    there = {"VOC_TRAIN_HOME": str(tmp_path_factory.mktemp("workers"))}
    with LocalCluster(env=there, n_workers=2, **SMALL) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("archives")
    return _archive(folder / "one.tar", "a", 24), _archive(folder / "two.tar", "b", 24)


def _archive(path: Path, letter: str, count: int, masks: Mapping[str, bytes] = {}) -> str:
    names = [f"{letter}{number:02d}" for number in range(count)]
    photos = {name: jpeg(name, SIDE, SIDE) for name in names}
    drawn = {name: palette_png(mask_of(name, SIDE, SIDE)) for name in names}
    return str(devkit(path, train=names[2:], val=names[:2], photos=photos, masks=drawn | masks))


class Hears(Listener):
    """Calls `then` whenever build-dataset gets further."""

    def __init__(self, then: Callable[[], None]) -> None:
        super().__init__()
        self._then = then

    def advanced(self, stage: str, done: float, total: float | None, note: str) -> None:
        if stage == "build-dataset":
            self._then()


def prepared(
    store: Path, archives: tuple[str, ...], place: str, then: Callable[[], None] = lambda: None
) -> Manifest:
    """By the flow's own part; `then` is called whenever a shard or more is done."""

    @flow(name="prepare")
    def prepare(parameters: Parameters) -> Manifest:
        return prepared_in_store(Run(parameters, who_listens()))

    token = listening.set((Hears(then),))
    try:
        return prepare(
            Parameters(
                archives=archives,
                store=store.as_uri(),
                limits=Limits(shard_mb=1),
                rental=RentalTerms(prepare_on=place),
            )
        )
    finally:
        listening.reset(token)


def spread_over(place: str, work: Callable[[int, Path], Any], items: Sequence[int]) -> list[Any]:
    """What came of each item, in their order, over the workers at `place`."""

    @flow(name="spread")
    def spread_out() -> list[Any]:
        with preparers(place) as spread:
            assert spread
            came = dict(spread("item", work, items))
        return [came[item] for item in items]

    return spread_out()


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def built_in(store: Path) -> dict[Path, int]:
    """The shards that are noted, with the time at which each was written."""
    shards = [path.parents[1] / f"shards/{path.stem}.tar" for path in store.rglob("parts/*.json")]
    return {shard: shard.stat().st_mtime_ns for shard in shards}


def workers_of_ours() -> set[psutil.Process]:
    """Processes of clusters that this one has started."""
    family = psutil.Process().children(recursive=True)
    return {process for process in family if "multiprocessing" in " ".join(process.cmdline())}


def test_it_is_the_dataset_of_one_computer(
    cluster: LocalCluster, archives: tuple[str, str], tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    one = prepared(here, archives, "local")
    other = prepared(there, archives, cluster.scheduler_address)
    assert len(one.shards) > 4
    assert other == one
    assert files_in(there / "datasets") == files_in(here / "datasets")
    assert {path.name for path in (there / "datasets" / one.key).iterdir()} >= {"manifest.json"}
    assert not list(there.rglob("parts/*"))


def test_a_lost_worker_costs_only_its_share(
    cluster: LocalCluster, archives: tuple[str, str], tmp_path: Path
) -> None:
    """Dask does again what a lost worker had in its memory; what is in the store is not built."""
    store, before, killed = tmp_path / "store", dict[Path, int](), list[psutil.Process]()

    def kill() -> None:
        if killed:
            return
        with Client(cluster, set_as_default=False) as client:
            has_results = {worker for holders in client.who_has().values() for worker in holders}
            pids = client.run(os.getpid)
        before.update(built_in(store))
        worker = psutil.Process(pids[min(has_results)])
        worker.kill()
        worker.wait(60)
        killed.append(worker)

    dataset = prepared(store, archives, cluster.scheduler_address, kill)
    assert killed, "no worker had done anything"
    assert 0 < len(before) < len(dataset.shards)
    assert {shard: shard.stat().st_mtime_ns for shard in before} == before
    assert is_whole(dataset, Store.open(str(store)))
    assert dataset == prepared(tmp_path / "here", archives, "local")


def test_the_next_attempt_builds_what_is_missing(
    cluster: LocalCluster, archives: tuple[str, str], tmp_path: Path
) -> None:
    """Also where the first was by this computer, and this one is not."""
    store = tmp_path / "store"

    def interrupt() -> None:
        if built_in(store):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepared(store, archives, "local", interrupt)
    before = built_in(store)
    dataset = prepared(store, archives, cluster.scheduler_address)
    assert 0 < len(before) < len(dataset.shards)
    assert {shard: shard.stat().st_mtime_ns for shard in before} == before
    assert is_whole(dataset, Store.open(str(store)))


def test_what_a_worker_refuses_is_what_the_user_hears(tmp_path: Path, voc_train: VocTrain) -> None:
    """By a cluster of the run's own, whose processes end with it."""
    broken = {"a09": palette_png(mask_of("a09", SIDE, SIDE) | 64)}
    archive = _archive(tmp_path / "mine.tar", "a", 12, broken)
    before = workers_of_ours()
    said = voc_train(
        *("run", "local", "--archive", archive, "--recipe", "tiny", "--json"),
        *("--prepare-on", "dask", "--limit", "shard_mb=1", "--wandb", "disabled"),
    )
    assert said.code == 2
    assert (
        "mine.tar: VOCdevkit/VOC2012/SegmentationClass/a09.png has the class index 64" in said.err
    )
    assert json.loads(said.out)["cause"] == "BAD_INPUT"
    assert not workers_of_ours() - before


def _pid(_item: int, _: Path) -> int:
    return os.getpid()


def test_ctrl_c_is_left_to_the_run() -> None:
    """A terminal sends it to all processes, and the run ends its workers in order."""

    @flow(name="interrupted")
    def interrupted() -> tuple[set[int], set[int]]:
        with preparers("dask") as spread:
            assert spread
            before = set(dict(spread("pid", _pid, range(4))).values())
            for pid in before:
                os.kill(pid, signal.SIGINT)
            return before, set(dict(spread("pid", _pid, range(4))).values())

    before, after = interrupted()
    assert os.getpid() not in before
    assert after & before == after


def _refuses(item: int, spool: Path) -> None:
    if item == 1:
        raise Failure(Cause.STORE, f"{spool} is full.", permanent=True)


def test_a_failure_arrives_as_itself(cluster: LocalCluster) -> None:
    with pytest.raises(Failure, match="is full") as caught:
        spread_over(cluster.scheduler_address, _refuses, range(3))
    assert (caught.value.cause, caught.value.permanent) == (Cause.STORE, True)
    assert str(home()) not in str(caught.value), "a worker's spool is its own"


def _dies(item: int, _: Path) -> None:
    if item == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def test_work_that_kills_its_worker_ends_in_a_sentence(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)  # or it takes four of them
    with pytest.raises(Failure, match="lost with one and the same item again and again") as caught:
        spread_over(cluster.scheduler_address, _dies, range(3))
    assert caught.value.cause is Cause.AGENT_LOST


def test_a_scheduler_without_workers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        LocalCluster(n_workers=0, **SMALL) as empty,
        pytest.raises(
            Failure, match="has no workers; start some with `dask worker tcp://"
        ) as caught,
    ):
        spread_over(empty.scheduler_address, _refuses, range(2))
    assert caught.value.exit_code == 2
    monkeypatch.setattr(dask_cluster, "_PATIENCE", 1.0)
    with pytest.raises(Failure, match="No Dask scheduler answers at tcp://.*; start one with"):
        spread_over(empty.scheduler_address, _refuses, range(2))


def test_workers_that_do_not_reach_prefect_are_named(cluster: LocalCluster) -> None:
    """As where the server is on this computer's loopback, and they are elsewhere."""
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(Failure, match="The Dask worker tcp://.* does not reach Prefect's server at"),
        preparers(cluster.scheduler_address),
    ):
        pass


@pytest.mark.parametrize("sent", [voc_train_flow, sweep], ids=["run", "sweep"])
def test_a_flow_can_be_sent_to_a_worker(sent: object) -> None:
    """It is pickled with all that it names, for every task."""
    assert cloudpickle.dumps(sent)


def test_without_dask_the_cure_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prefect_dask.task_runners", None)
    with (
        pytest.raises(
            InputError, match=r"--prepare-on dask needs Dask.*pip install -e '\.\[dask\]'"
        ),
        preparers("dask"),
    ):
        pass


def test_who_does_not_ask_for_dask_imports_none() -> None:
    program = (
        "import sys, pipeline.flow, pipeline.sweeping\n"
        "from pipeline.dask_cluster import preparers\n"
        "with preparers('local') as spread: assert spread is None\n"
        "assert not {'dask', 'distributed', 'prefect_dask'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
