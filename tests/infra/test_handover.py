"""A run is handed over by SSH: code once, keys unseen, an agent that needs us no more."""

import base64
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest

from agents import is_running, log_of, put_spec, until
from infra.failure import Cause, Failure
from infra.handover import install, launch, run_folder, start_agent
from infra.protocol import Result
from infra.ssh import CommandFailed, Connection
from infra.stores import Store
from infra.wheel import build_wheel
from servers.sshd import SSHD

_BUCKET_KEY = "canary/of+the bucket"
_FEED_KEY = "canary/of+the feed"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[SSHD]:
    with SSHD(tmp_path / "machine") as machine:
        yield machine


@pytest.fixture
def connection(machine: SSHD) -> Iterator[Connection]:
    with machine.connect() as connection:
        yield connection


@pytest.fixture
def code(machine: SSHD) -> Iterator[str]:
    """Where the code lies on the machine; in the end no agent of run `r` is left there."""
    with machine.connect() as connection:
        code = install(connection, sys.executable, build_wheel())
    yield code
    if machine.home.exists():
        machine.kill()
        machine.start()
        with machine.connect() as connection:
            connection.run(launch(sys.executable, code, "kill", f"{machine.home}/voc-train/r"))


def _start(connection: Connection, code: str, store: Store, **secrets: str) -> None:
    start_agent(connection, sys.executable, code, store_url=store.url, run_id="r", secrets=secrets)


def _encodings(secret: str) -> list[bytes]:
    raw = secret.encode()
    return [raw, base64.b64encode(raw), quote(secret, safe="").encode()]


def _shows(place: bytes, secret: str) -> bool:
    return any(form in place for form in _encodings(secret))


def test_code_is_sent_once(machine: SSHD, connection: Connection, code: str) -> None:
    assert Path(code).is_relative_to(machine.home / "voc-train" / "code")
    assert (Path(code) / "model" / "train.py").exists()
    assert [p.name for p in Path(code).parent.iterdir()] == [build_wheel().digest]
    # Were it sent again, an interpreter would be needed.
    assert install(connection, "/no/python", build_wheel()) == code


def test_a_broken_interpreter_is_named_and_nothing_is_half_installed(
    machine: SSHD, connection: Connection
) -> None:
    with pytest.raises(CommandFailed, match=r"/no/python") as caught:
        install(connection, "/no/python", build_wheel())
    assert caught.value.cause is Cause.SETUP_FAILED
    assert not list((machine.home / "voc-train" / "code").iterdir())


def test_the_agent_outlives_the_connection(
    machine: SSHD, code: str, store: Store, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    put_spec(
        store,
        "import os, pathlib, time, model\nprint(model.__file__, os.getcwd(), flush=True)\n"
        f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)",
    )
    with machine.connect() as connection:
        _start(connection, code, store)
        machine.kill()
    until(lambda: log_of(store).endswith(b"\n"))
    module, folder = log_of(store).decode().split()
    assert Path(module).is_relative_to(code)
    assert folder == f"{machine.home}/voc-train/r/job"
    assert store.get("runs/r/result.json") is None
    go.touch()
    until(lambda: store.get("runs/r/result.json"))
    result = store.read("runs/r/result.json", Result)
    assert result
    assert result.cause is None


def test_nobody_sees_the_keys(
    machine: SSHD, connection: Connection, code: str, store: Store, tmp_path: Path
) -> None:
    put_spec(
        store,
        "import os, time\n"
        "print(os.getpid(), sorted(n for n in os.environ if n.endswith('_KEY')), flush=True)\n"
        "time.sleep(600)",
    )
    _start(connection, code, store, AWS_SECRET_ACCESS_KEY=_BUCKET_KEY, WANDB_API_KEY=_FEED_KEY)
    until(lambda: log_of(store).endswith(b"\n"))
    pid, names = log_of(store).decode().strip().split(maxsplit=1)
    assert names == "['WANDB_API_KEY']"

    for process in psutil.process_iter():
        try:
            shown = repr((process.cmdline(), process.environ())).encode()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        assert not _shows(shown, _BUCKET_KEY)
        # W&B's library reads its key there, and nobody but this user can.
        assert process.pid == int(pid) or not _shows(shown, _FEED_KEY)
    for file in filter(Path.is_file, tmp_path.rglob("*")):
        for key in (_BUCKET_KEY, _FEED_KEY):
            assert not _shows(file.read_bytes(), key), file
    assert (machine.home / "voc-train" / "r").stat().st_mode & 0o777 == 0o700


def test_an_agent_that_does_not_start_says_why_and_keeps_no_keys(
    machine: SSHD, connection: Connection, code: str, store: Store
) -> None:
    secrets = {"AWS_SECRET_ACCESS_KEY": _BUCKET_KEY}
    with pytest.raises(Failure, match=r"did not start on .*: .*is not a store") as caught:
        start_agent(
            connection, sys.executable, code, store_url="ftp://x", run_id="r", secrets=secrets
        )
    assert caught.value.cause is Cause.SETUP_FAILED
    assert _BUCKET_KEY not in str(caught.value)
    with pytest.raises(Failure, match="did not start"):
        start_agent(
            connection, "/no/python", code, store_url=store.url, run_id="r", secrets=secrets
        )
    # So that the agent never gets to its keys.
    (Path(code) / "infra" / "stores.py").write_text("raise ImportError('a package is missing')")
    with pytest.raises(Failure, match=r"did not start on .*a package is missing"):
        _start(connection, code, store, **secrets)
    assert not list(machine.home.rglob("secrets.json"))


def test_a_second_agent_for_the_run_is_refused(
    connection: Connection, code: str, store: Store
) -> None:
    put_spec(store, "import os, time; print(os.getppid(), flush=True); time.sleep(600)")
    _start(connection, code, store)
    until(lambda: log_of(store).endswith(b"\n"))
    with pytest.raises(Failure, match="An agent works in .* already"):
        _start(connection, code, store)
    assert is_running(int(log_of(store)))


def test_a_missing_authority_is_named(connection: Connection, code: str, store: Store) -> None:
    with pytest.raises(Failure, match=r"AWS_CA_BUNDLE names /no/ca.pem, which cannot be read"):
        _start(connection, code, store, AWS_CA_BUNDLE="/no/ca.pem")


def test_only_a_run_id_names_a_folder(connection: Connection) -> None:
    for name in ("", "..", "a/b", "-r", "~"):
        with pytest.raises(Failure, match="is not the id of a run"):
            run_folder(connection, name)
