"""What every test may count on: its own home, no account, real photos and servers on demand."""

import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import effort  # noqa: F401  # as REAL_DATA, read before the environment is cleared below
from photos import REAL_DATA  # read before the environment is cleared below
from servers.rgw import RGW
from small_disk import Disk, small_disk

# A busy computer is no fault of what is tested.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# A test must neither use nor change what the developer has set up.
_PERSONAL = ("AWS_", "PREFECT_", "VOC_TRAIN_", "WANDB_", "XDG_")


def pytest_configure(config: pytest.Config) -> None:
    """No personal settings, and one home for the session, before a test module imports anything.

    A library such as Prefect reads its settings when it is imported; and what is slow to make
    anew (Prefect's database, matplotlib's list of fonts) is here for all tests.
    """
    # Of a process in which a flow has run, a fork (such as a loader) would end with an error of
    # Prefect's: it waits for a thread that forks do not have.
    os.register_at_fork(after_in_child=lambda: vars(threading)["_threading_atexits"].clear())
    # Where a shell started the tests in the background, Ctrl-C is ignored, and would be by all
    # that they start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    home = tempfile.TemporaryDirectory(prefix="voc-train-tests-", ignore_cleanup_errors=True)
    config.add_cleanup(home.cleanup)
    patch = pytest.MonkeyPatch()
    config.add_cleanup(patch.undo)
    for name in list(os.environ):
        if name.startswith(_PERSONAL):
            patch.delenv(name)
    _set_home(patch, Path(home.name))
    # One folder for all processes of a session: xdist's get the environment of who starts them.
    patch.setenv("TESTS_HOME", os.environ.get("TESTS_HOME", home.name))
    patch.setenv("PREFECT_HOME", f"{home.name}/prefect")
    patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    patch.setenv("MPLCONFIGDIR", f"{home.name}/matplotlib")
    patch.setenv("WANDB_MODE", "offline")
    patch.setenv("DO_NOT_TRACK", "1")


@pytest.fixture(autouse=True)
def isolated_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own: caches, stores and W&B's files go below it."""
    home = tmp_path / "home"
    home.mkdir()
    _set_home(monkeypatch, home)
    return home


def _set_home(patch: pytest.MonkeyPatch, home: Path) -> None:
    patch.setenv("HOME", str(home))
    patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    patch.setenv("VOC_TRAIN_HOME", str(home / "voc-train"))
    for name in ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR"):
        patch.setenv(f"WANDB_{name}", str(home / "wandb"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the archives of real photos."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real photos at {REAL_DATA}: name their folder in VOC_TRAIN_TEST_DATA")
    return REAL_DATA


@pytest.fixture(scope="session")
def rgw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RGW]:
    """A real S3 server over TLS, one for the session: give each test a bucket of its own."""
    with RGW(tmp_path_factory.mktemp("rgw")) as server:
        yield server


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A file system of a megabyte, for what must happen when it is full."""
    with small_disk(tmp_path / "disk") as mounted:
        yield mounted
