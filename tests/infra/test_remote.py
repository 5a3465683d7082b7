"""A machine behind SSH runs a job as this computer does: from the start to the last word."""

import io
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import infra.remote
from agents import is_running, log_of, put_spec, until
from infra.agent import UNSENT
from infra.failure import Cause, Failure
from infra.machines import Machine
from infra.protocol import Result, now
from infra.remote import RemoteMachine
from infra.sftp_store import SFTPStore
from infra.stores import Store
from infra.wheel import build_wheel
from servers.rgw import RGW
from servers.sshd import SSHD


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[SSHD]:
    """With the code there already: how it comes there is the hand-over's story."""
    wheel = build_wheel()
    with SSHD(tmp_path / "machine") as sshd:
        with zipfile.ZipFile(io.BytesIO(wheel.content)) as archive:
            archive.extractall(sshd.home / "voc-train" / "code" / wheel.digest)
        yield sshd


@pytest.fixture
def machine(sshd: SSHD) -> Iterator[RemoteMachine]:
    machine = _machine(sshd)
    yield machine
    machine.stop()


def _machine(sshd: SSHD, **more: object) -> RemoteMachine:
    settings = {"store_url": None, "secrets": {}, "where": "a host", "fresh": 0, **more}
    return RemoteMachine(sshd.connect, sys.executable, **settings)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infra.remote, "_LOOK", 0.05)


_waits = "import os, time; print(os.getpid(), os.getppid(), flush=True); time.sleep(600)"
# It does not end when it is told to.
_deaf = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {_waits}"


def _family(store: Store) -> list[int]:
    """Numbers of the job and its agent."""
    until(lambda: log_of(store).endswith(b"\n"))
    return [int(pid) for pid in log_of(store).split()]


def _result(store: Store) -> Result:
    result = store.read("runs/r/result.json", Result)
    assert result
    return result


def test_a_job_runs_to_its_result_and_leaves_nothing(
    sshd: SSHD, store: Store, machine: Machine
) -> None:
    machine.stop()  # nothing to stop yet
    put_spec(store, "import os; print(os.getcwd())")
    machine.start(store, "r")
    until(lambda: machine.state() == "gone")
    assert _result(store).cause is None
    assert log_of(store).decode().strip() == f"{sshd.home}/voc-train/r/job"
    assert (machine.unsent_result(), machine.last_words()) == (None, "it said nothing")
    machine.clean()
    assert [p.name for p in (sshd.home / "voc-train").iterdir() if p.name == "r"] == []


def test_the_job_is_stopped_with_a_last_word(store: Store, machine: RemoteMachine) -> None:
    put_spec(store, _waits)
    machine.start(store, "r")
    family = _family(store)
    assert machine.state() == "running"
    machine.stop()
    assert not any(is_running(pid) for pid in family)
    assert _result(store).cause is Cause.CANCELLED
    assert machine.state() == "gone"
    machine.stop()


def test_a_controller_that_came_later_stops_it_too(
    sshd: SSHD, store: Store, machine: RemoteMachine
) -> None:
    put_spec(store, _waits)
    machine.start(store, "r")
    family = _family(store)
    later = _machine(sshd, run_id="r")
    assert later.state() == "running"
    later.stop()
    assert not any(is_running(pid) for pid in family)


def test_what_does_not_end_is_killed_with_its_job(
    store: Store, machine: RemoteMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infra.remote, "GRACE", 0.2)
    monkeypatch.setattr(infra.remote, "LAST_UPLOAD", 0.2)
    put_spec(store, _deaf)
    machine.start(store, "r")
    family = _family(store)
    machine.stop()
    until(lambda: not any(is_running(pid) for pid in family))
    assert store.get("runs/r/result.json") is None


def test_whoever_loses_patience_leaves_nothing_running(
    store: Store, machine: RemoteMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_spec(store, _deaf)
    machine.start(store, "r")
    family = _family(store)

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(infra.remote.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        machine.stop()
    monkeypatch.undo()
    until(lambda: not any(is_running(pid) for pid in family))


def test_a_machine_that_does_not_answer_is_unknown_and_found_again(
    sshd: SSHD, store: Store, machine: RemoteMachine
) -> None:
    put_spec(store, _waits)
    machine.start(store, "r")
    _family(store)
    sshd.kill()
    assert machine.state() == "unknown"
    assert machine.unsent_result() is None
    assert "No SSH server answers" in machine.last_words() or "lost" in machine.last_words()
    sshd.start()
    assert machine.state() == "running"


def test_stop_returns_where_nobody_answers(
    sshd: SSHD, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_spec(store, _waits)
    machine = _machine(sshd)
    machine.start(store, "r")
    family = _family(store)
    sshd.kill()
    monkeypatch.setattr(infra.remote, "_DEAF", 0.2)
    machine.stop()
    machine.clean()
    assert all(is_running(pid) for pid in family)
    sshd.start()
    machine.stop()
    assert not any(is_running(pid) for pid in family)


def test_whoever_rented_it_out_knows_whether_it_is_there(sshd: SSHD, store: Store) -> None:
    """And of one that is gone nobody asks anything by SSH."""
    states = ["running", "unknown", "gone"]
    machine = _machine(sshd, state=lambda: states[0], run_id="r")
    sshd.kill()
    assert machine.state() == "running"
    states.pop(0)
    assert machine.state() == "unknown"
    states.pop(0)
    assert machine.state() == "gone"
    machine.stop()


def test_what_the_store_could_not_be_told_is_found(sshd: SSHD) -> None:
    folder = sshd.home / "voc-train" / "r"
    (folder / "job").mkdir(parents=True)
    unsent = Result(exit_code=1, cause=Cause.STORE, message="full", started=now(), ended=now())
    (folder / "job" / UNSENT).write_text(unsent.model_dump_json())
    (folder / "agent.log").write_text("the first\nthe last\n")
    machine = _machine(sshd, run_id="r")
    assert machine.unsent_result() == unsent
    assert machine.last_words() == "the last"


def test_a_store_on_the_machine_is_read_by_ssh(sshd: SSHD) -> None:
    """The agent writes to a folder there, the controller sees it from here."""
    volume = sshd.home / "volume"
    store = SFTPStore(sshd.connect, str(volume))
    put_spec(store, "import pathlib; pathlib.Path('out/metrics.jsonl').write_text('1'); print(2)")
    machine = _machine(sshd, store_url=volume.as_uri())
    machine.start(store, "r")
    until(lambda: machine.state() == "gone")
    machine.stop()
    assert _result(store).cause is None
    assert log_of(store) == b"2\n"
    assert store.get("runs/r/metrics.jsonl") == b"1"
    store.close()


def test_the_bucket_key_and_its_authority_reach_the_agent(
    sshd: SSHD, rgw: RGW, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it is in the environment of the machine's sshd, so it can only come by SSH."""
    for name, value in rgw.environment().items():
        monkeypatch.setenv(name, value)
    store = Store.open(f"s3://{rgw.create_bucket('remote-' + os.urandom(4).hex())}/voc")
    put_spec(store, "import os; print([n for n in os.environ if n.startswith('AWS_')])")
    machine = _machine(sshd, secrets=rgw.environment())
    machine.start(store, "r")
    until(lambda: machine.state() == "gone")
    assert _result(store).cause is None
    assert "ACCESS_KEY" not in log_of(store).decode()


def test_a_machine_without_its_interpreter_is_an_error(sshd: SSHD, store: Store) -> None:
    with pytest.raises(Failure, match="/no/python"):
        RemoteMachine(sshd.connect, "/no/python", None, {}, "a host").start(store, "r")
