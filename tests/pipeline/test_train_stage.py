"""The train stage follows an agent: every line once, the job's own cause, nothing left running."""

from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from agents import is_running, job_spec, until
from infra.failure import Cause, Failure
from infra.lease import Patience
from infra.machines import LocalMachine
from infra.protocol import Result
from infra.stores import Store
from pipeline.stages import train as stage
from pipeline.stages.train import train
from small_disk import Disk


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(stage, "_POLL", 0.05)
    return Store.open(str(tmp_path / "store"))


@pytest.fixture
def machine(tmp_path: Path) -> LocalMachine:
    return LocalMachine(tmp_path / "job")


def _agents() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "infra.agent" in child.cmdline()]


# The beginning of a job that runs until it is stopped, and says first who it is.
_LONG = (
    "import os, time, pathlib\n"
    "print(os.getpid(), flush=True)\n"
    'pathlib.Path(\'out/.p\').write_text(\'{"step": 4, "total_steps": 8, "loss": 0.25}\')\n'
    "os.rename('out/.p', 'out/progress.json')\n"
    "time.sleep(600)\n"
)


def test_every_line_is_told_once_and_in_order(
    store: Store, machine: LocalMachine, tmp_path: Path
) -> None:
    said: list[str] = []
    result = train(
        job_spec(
            "import os, pathlib, sys, time\n"
            f"log = pathlib.Path({str(tmp_path / 'store' / 'runs' / 'r' / 'log')!r})\n"
            "def sent(pieces):\n"
            "    while not log.exists() or len(list(log.glob('*.txt'))) < pieces:\n"
            "        time.sleep(0.01)\n"
            "for n in range(500): print(n)\n"
            "os.write(1, b'a gr\\xc3')\n"  # a piece ends in the middle of a letter
            "sent(1)\n"
            "os.write(1, b'\\xbcn line\\n\\n')\n"
            "sent(2)\n"
            "print('\\xe4 last one', end='')\n"
        ),
        store,
        machine,
        say=said.append,
    )
    assert result.cause is None
    assert said == [*(str(n) for n in range(500)), "a grün line", "", "ä last one"]
    assert len(list(store.list("runs/r/log"))) >= 3


def test_progress_is_reported(store: Store, machine: LocalMachine, tmp_path: Path) -> None:
    told: list[tuple[float, float | None, str]] = []
    go = tmp_path / "go"

    def report(done: float, total: float | None, note: str = "") -> None:
        told.append((done, total, note))
        go.touch()

    job = _LONG.replace("time.sleep(600)", f"while not os.path.exists({str(go)!r}): time.sleep(0)")
    train(job_spec(job), store, machine, report=report, say=lambda _: None)
    assert set(told) == {(4, 8, "loss 0.25  4/8")}


def test_a_job_that_ends_well_leaves_no_folder(
    store: Store, machine: LocalMachine, tmp_path: Path
) -> None:
    train(job_spec("open('out/metrics.jsonl', 'w').write('{}')"), store, machine)
    assert not (tmp_path / "job").exists()
    assert store.get("runs/r/metrics.jsonl") == b"{}"


def test_a_failed_job_raises_its_cause_after_its_last_line(
    store: Store, machine: LocalMachine
) -> None:
    said: list[str] = []
    failure = '{"cause": "OUT_OF_MEMORY", "message": "Halve it."}'
    code = f"open('out/failure.json', 'w').write({failure!r}); raise SystemExit('no memory')"
    with pytest.raises(Failure, match=r"^Halve it\.$") as caught:
        train(job_spec(code), store, machine, say=said.append)
    assert caught.value.cause is Cause.OUT_OF_MEMORY
    assert said == ["no memory"]


def test_an_agent_that_is_silent_is_given_up(store: Store, machine: LocalMachine) -> None:
    jobs: list[int] = []

    def freeze_agent(line: str) -> None:
        jobs.append(int(line))
        for agent in _agents():
            agent.suspend()

    with pytest.raises(Failure, match=r"Nothing was heard from this computer") as caught:
        train(job_spec(_LONG), store, machine, patience=Patience(stall=5), say=freeze_agent)
    assert caught.value.cause is Cause.STALLED
    assert not is_running(jobs[0])


def test_an_agent_that_dies_is_lost_and_says_what_it_can(
    store: Store, machine: LocalMachine
) -> None:
    jobs: list[int] = []

    def kill_agent(line: str) -> None:
        jobs.append(int(line))
        for agent in _agents():
            agent.kill()

    with pytest.raises(Failure, match=r"agent of run r ended without a result \(.+\)") as caught:
        train(job_spec(_LONG), store, machine, say=kill_agent)
    assert caught.value.cause is Cause.AGENT_LOST
    (pid,) = jobs
    until(lambda: not is_running(pid))


def test_an_interrupted_controller_leaves_nothing_running(
    store: Store, machine: LocalMachine, tmp_path: Path
) -> None:
    jobs: list[int] = []
    go = tmp_path / "go"

    def interrupt(_done: float, _total: float | None, _note: str = "") -> None:
        raise KeyboardInterrupt

    def say(line: str) -> None:
        if "stopping" in line:
            raise BrokenPipeError("the terminal is gone, and the job must be stopped all the same")
        jobs.append(int(line))
        go.touch()

    wait = f"while not os.path.exists({str(go)!r}): time.sleep(0.01)\npathlib.Path('out/.p')"
    code = _LONG.replace("pathlib.Path('out/.p')", wait)
    with pytest.raises(BrokenPipeError) as caught:
        train(job_spec(code), store, machine, report=interrupt, say=say)
    assert isinstance(caught.value.__context__, KeyboardInterrupt)

    assert not _agents()
    (pid,) = jobs
    assert not is_running(pid)
    result = Result.model_validate_json(store.get("runs/r/result.json") or b"")
    assert result.cause is Cause.CANCELLED


def test_a_controller_that_was_replaced_leaves_the_job_to_its_successor(
    store: Store, machine: LocalMachine
) -> None:
    jobs: list[int] = []

    def interrupt(line: str) -> None:
        jobs.append(int(line))
        raise KeyboardInterrupt

    def must_hold() -> None:
        if jobs:
            raise Failure(Cause.CLAIMED, "Run r is driven by another computer.")

    try:
        with pytest.raises(KeyboardInterrupt):
            train(job_spec(_LONG), store, machine, say=interrupt, must_hold=must_hold)
        assert machine.alive()
        assert is_running(jobs[0])
    finally:
        machine.stop()
    assert not is_running(jobs[0])


def test_a_controller_that_was_replaced_before_it_begins_changes_nothing(
    store: Store, machine: LocalMachine
) -> None:
    def must_hold() -> None:
        raise Failure(Cause.CLAIMED, "Run r is driven by another computer.")

    store.put("runs/r/heartbeat.json", b"of the other one's job")
    with pytest.raises(Failure) as caught:
        train(job_spec("pass"), store, machine, must_hold=must_hold)
    assert caught.value.cause is Cause.CLAIMED
    assert [entry.key for entry in store.list("runs/r")] == ["runs/r/heartbeat.json"]
    assert not machine.alive()


def test_an_earlier_attempts_result_is_not_this_ones(store: Store, machine: LocalMachine) -> None:
    now = datetime.now(UTC)
    old = Result(exit_code=1, cause=Cause.DEADLINE, message="old", started=now, ended=now)
    store.put("runs/r/result.json", old.model_dump_json().encode())
    assert train(job_spec("print('new')"), store, machine).cause is None


class _Away(Store):
    """A store that does not answer, for so many questions about the heartbeat."""

    def __init__(self, folder: Path, times: float) -> None:
        super().__init__(folder.as_uri(), folder)
        self.times = times

    def get(self, key: str) -> bytes | None:
        if key.endswith("heartbeat.json") and self.times > 0:
            self.times -= 1
            raise Failure(Cause.STORE, "The store does not answer.")
        return super().get(key)


def test_a_store_that_is_away_for_a_while_ends_nothing(
    store: Store, machine: LocalMachine, tmp_path: Path
) -> None:
    said: list[str] = []
    away = _Away(tmp_path / "store", times=3)
    assert train(job_spec("print('done')"), away, machine, say=said.append).cause is None
    assert said == ["done"]
    assert away.times == 0


def test_a_store_that_stays_away_ends_the_run_and_the_job(
    store: Store, machine: LocalMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "_STORE_PATIENCE", 0.0)
    away = _Away(tmp_path / "store", times=float("inf"))
    with pytest.raises(Failure, match="does not answer") as caught:
        train(job_spec(_LONG), away, machine)
    assert caught.value.cause is Cause.STORE
    assert not _agents()


def test_a_store_that_fills_up_is_named_and_what_was_trained_stays_here(
    disk: Disk, tmp_path: Path
) -> None:
    store = Store.open(disk.folder.as_uri())
    machine = LocalMachine(tmp_path / "jobs/r")
    with pytest.raises(Failure, match="The store is full") as caught:
        train(job_spec("open('out/checkpoint', 'wb').write(bytes(2_000_000))"), store, machine)
    assert caught.value.exit_code == 2
    (trained,) = tmp_path.glob("jobs/r/*/out/checkpoint")
    assert trained.stat().st_size == 2_000_000
    assert str(trained.parent) in str(caught.value)
