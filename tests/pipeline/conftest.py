"""What several tests begin with: store, spool, archives, a checkpoint, servers, a command."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from archives import TAR
from begun import Begin, beginning
from commands import VocTrain, in_this_process
from infra.stores import Store
from servers.file_server import FileServer
from servers.prefect import PrefectServer


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store in a folder."""
    return Store.open(str(tmp_path / "store"))


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """An empty folder for downloads."""
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Begin a command, and return when it says a word; in the end it is killed."""
    with beginning() as begin:
        yield begin


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few photos with masks."""
    from pipeline.sample_archive import write_sample_archive

    path = tmp_path_factory.mktemp("archive") / "shapes.tar"
    write_sample_archive(path, train=12, val=4, unlabelled=1)
    return path


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a net for VOC's classes that never learned anything."""
    import torch  # here, since this file is read for tests that do without

    from model import checkpoint
    from model.nets import build_net
    from model.provenance import provenance
    from model.recipes import named
    from pipeline.parameters import VOC_CLASSES

    recipe = named("tiny").override({"width": 1, "depth": 1})
    description = checkpoint.Description(
        run_id="test", wandb_id="", recipe=recipe, classes=VOC_CLASSES, dataset_key="",
        dataset_digest="", archives=(), step=1, epoch=1, steps_per_epoch=1, miou=0.0, iou={},
        provenance=provenance(torch.device("cpu"), torch.float32),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("checkpoint")
    checkpoint.save(folder, description, {"net": build_net(recipe, len(VOC_CLASSES)).state_dict()})
    return folder / "00000001" / checkpoint.BLOB


@pytest.fixture
def voc_train(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[VocTrain]:
    """The command line, in this process."""
    yield from in_this_process(monkeypatch, capfd)


@pytest.fixture(scope="session")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A server for every run that need not start its own."""
    with PrefectServer(tmp_path_factory.mktemp("prefect"), bare=True) as server:
        yield server


@pytest.fixture
def flows(prefect: PrefectServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs in this process report to that server, and Prefect logs nothing."""
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_LOGGING_TO_API_ENABLED,
        temporary_settings,
    )

    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "CRITICAL")
    # What is logged would be sent when the server is gone.
    with temporary_settings({PREFECT_API_URL: prefect.api, PREFECT_LOGGING_TO_API_ENABLED: False}):
        yield


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """An archive on this computer."""
    path = tmp_path / "voc.tar"
    path.write_bytes(TAR)
    return path


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """The same archive on a file server, as /voc.tar."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FileServer() as server:
        server.files["/voc.tar"] = TAR
        yield server
