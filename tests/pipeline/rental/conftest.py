"""A simulated account with real machines, and the proof after each test that nothing is left."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from begun import Begin
from infra.failure import Failure
from infra.simulator.machine import must_be_possible
from infra.simulator.object_storage import ObjectStorage
from infra.stores import Store
from pipeline.sample_archive import SAMPLE_CLASSES
from rentals import (
    TINY,
    Account,
    Impatient,
    Renter,
    Start,
    be_impatient,
    clock,
    do_without_prefect,
    left_over,
    specification,
)
from servers.prefect import PrefectServer


@pytest.fixture(autouse=True)
def possible() -> None:
    try:
        must_be_possible()
    except Failure as failure:
        pytest.skip(str(failure))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The controller's home, whose store the machines see."""
    home = tmp_path / "controller"
    (home / "store").mkdir(parents=True)
    monkeypatch.setenv("VOC_TRAIN_HOME", str(home))
    return home


@pytest.fixture
def store(home: Path) -> Store:
    return Store.open(str(home / "store"))


@pytest.fixture
def leaks() -> set[str]:
    """Labels of what a test leaves at the provider on purpose."""
    return set()


@pytest.fixture
def gateway() -> ObjectStorage | None:
    """What opens buckets for the account's keys; a file that needs one overrides it."""
    return None


@pytest.fixture
def account(
    home: Path,
    tmp_path: Path,
    leaks: set[str],
    gateway: ObjectStorage | None,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Account]:
    """Linode on this computer; afterwards nothing may be left but what the test said."""
    folder = tmp_path / "linode"
    with Account(
        folder,
        clock=clock(),
        shares=(home / "store",),
        spec=specification(),
        object_storage=gateway,
    ) as account:
        for name, value in account.environment().items():
            monkeypatch.setenv(name, value)
        yield account
        left = {thing.label for thing in account.left() if thing.kind != "stackscript"}
        assert left == leaks
        if not leaks:
            assert not left_over(folder)
            assert not [path for path in tmp_path.rglob("*") if _holds_private_key(path)]
        assert account.violations == []
        assert account.touched == []
    assert not left_over(folder)


def _holds_private_key(path: Path) -> bool:
    return path.is_file() and b"PRIVATE KEY" in path.read_bytes()


@pytest.fixture
def renter(account: Account, store: Store, monkeypatch: pytest.MonkeyPatch) -> Renter:
    """Who rents there, with little patience."""
    be_impatient(monkeypatch)
    do_without_prefect(monkeypatch)
    return Renter(store)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Impatient:
    """Give phases of the rental other deadlines."""
    return partial(be_impatient, monkeypatch)


@pytest.fixture
def start(account: Account, archive: Path, prefect: PrefectServer, begin: Begin) -> Start:
    """Begin a long run, and return when it says a word."""

    def start(word: str, where: str = "linode", *more: str, epochs: int = 100_000) -> psutil.Popen:
        terms = ("--yes", "--no-reaper") if where == "linode" else ()
        return begin(
            word,
            *("run", where, "--archive", str(archive), *terms),
            *("--classes", ",".join(SAMPLE_CLASSES), *TINY, "--set", f"epochs={epochs}", *more),
            environment={"PREFECT_API_URL": prefect.api},
        )

    return start
