"""`voc-train run ssh`: training on a host that the user has, by way of a bucket."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra.protocol import Result
from infra.stores import Store
from pipeline.sample_archive import SAMPLE_CLASSES
from rentals import voc_train
from servers.prefect import PrefectServer
from servers.rgw import RGW
from servers.sshd import SSHD

_TINY = ("--recipe", "tiny", "--set", "epochs=1", "--set", "width=1", "--set", "depth=1")
_TINY += ("--set", "min_miou=none", "--workers", "0", "--wandb", "disabled", "--json")


@pytest.fixture
def host(tmp_path: Path, isolated_home: Path) -> Iterator[SSHD]:
    """A host that this user's keys and known_hosts know."""
    with SSHD(tmp_path / "host") as host:
        own = isolated_home / ".ssh"
        own.mkdir()
        (own / "id_ed25519").touch(0o600)
        (own / "id_ed25519").write_text(host.key.private)
        at = f"[{host.endpoint.host}]:{host.endpoint.port}"
        (own / "known_hosts").write_text(f"{at} {host.host_key.public}\n")
        yield host


@pytest.fixture
def bucket(rgw: RGW, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in rgw.environment().items():
        monkeypatch.setenv(name, value)
    rgw.client().create_bucket(Bucket="own-host")
    return "s3://own-host/voc"


def _arguments(host: SSHD, bucket: str, archive: Path, *more: str) -> tuple[str, ...]:
    at = host.endpoint
    return (
        *("run", "ssh", f"{at.user}@{at.host}:{at.port}", "--python", sys.executable),
        *("--archive", str(archive), "--classes", ",".join(SAMPLE_CLASSES), "--store", bucket),
        *(*_TINY, *more),
    )


def test_a_host_of_ones_own_trains_and_is_left_clean(
    host: SSHD, bucket: str, archive: Path, prefect: PrefectServer
) -> None:
    done = voc_train(_arguments(host, bucket, archive), {"PREFECT_API_URL": prefect.api})
    made = json.loads(done.stdout.splitlines()[-1])
    assert Path(made["checkpoint"]).exists()
    result = Store.open(bucket).read(f"runs/{made['run_id']}/result.json", Result)
    assert result
    assert result.cause is None
    place = host.home / "voc-train"
    assert not (place / made["run_id"]).exists()  # keys, data and checkpoints went; code may stay
    assert not [p for p in psutil.process_iter(["cmdline"]) if made["run_id"] in str(p.info)]


def test_a_host_that_is_not_known_is_not_trusted(
    host: SSHD, bucket: str, archive: Path, prefect: PrefectServer, isolated_home: Path
) -> None:
    (isolated_home / ".ssh" / "known_hosts").write_text("")
    done = voc_train(_arguments(host, bucket, archive), {"PREFECT_API_URL": prefect.api}, code=2)
    assert "known_hosts" in json.loads(done.stdout.splitlines()[-1])["message"]
    assert not (host.home / "voc-train").exists()


def test_a_folder_is_no_store_for_another_host(
    host: SSHD, archive: Path, prefect: PrefectServer, tmp_path: Path
) -> None:
    arguments = _arguments(host, str(tmp_path / "folder"), archive)
    done = voc_train(arguments, {"PREFECT_API_URL": prefect.api}, code=2)
    assert "s3://" in json.loads(done.stdout.splitlines()[-1])["message"]
