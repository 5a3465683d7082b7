"""The agent with real small jobs: what arrives in the store, and what is left running (nothing)."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from infra.agent import Agent
from infra.failure import Cause, Failure
from infra.protocol import Heartbeat, Input, JobSpec, Result, read
from infra.stores import Store
from servers.rgw import RGW

_PATIENCE = 60.0  # seconds for what takes one on an idle machine


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def _spec(store: Store, code: str, *, deadline: float = 600, **more: object) -> None:
    """Put the job that runs this Python text into the store as run `r`."""
    spec = JobSpec.model_validate(
        {"run_id": "r", "argv": ("python", "-c", code), "deadline_seconds": deadline, **more}
    )
    store.put("runs/r/spec.json", spec.model_dump_json().encode())


def _run(store: Store, job: Path, *, grace: float = 30.0) -> Result:
    """Run the agent here, and see that its last word is in the store."""
    result = Agent(store, "r", job, 0.05, grace).run()
    assert read(store, "runs/r/result.json", Result) == result
    return result


def _log(store: Store) -> bytes:
    """The pieces put together; each is named by where it begins."""
    log = b""
    for entry in store.list("runs/r/log"):
        assert int(Path(entry.key).stem) == len(log)
        log += store.get(entry.key) or b""
    return log


def _until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def start(store: Store, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start agents as processes of their own; what is left of them ends with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*more: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "infra.agent", "--store", store.url, "--run", "r"]
        command += ["--job", str(tmp_path / "job"), "--poll", "0.05", *more]
        with (tmp_path / "agent.log").open("ab") as log:
            started.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))
        return started[-1]

    yield start
    for agent in started:
        if agent.poll() is None:
            for child in psutil.Process(agent.pid).children(recursive=True):
                child.kill()
            agent.kill()
            agent.wait()


def test_what_a_job_says_and_makes_arrives(store: Store, tmp_path: Path) -> None:
    _spec(
        store,
        "import os, sys\n"
        "print(open('dataset/words.txt').read())\n"
        "print('to stderr', file=sys.stderr)\n"
        "os.write(1, bytes(range(256)))\n"  # any bytes, no newline at the end
        "open('out/metrics.jsonl', 'w').write('{}\\n')\n",
        files={"dataset/words.txt": "grüß Gott"},
    )
    result = _run(store, tmp_path / "job")

    assert (result.exit_code, result.cause) == (0, None)
    assert result.started <= result.ended
    assert _log(store) == "grüß Gott\nto stderr\n".encode() + bytes(range(256))
    assert store.get("runs/r/metrics.jsonl") == b"{}\n"


def test_the_log_arrives_while_the_job_runs(
    store: Store, tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    go = tmp_path / "go"
    _spec(
        store,
        "import pathlib, time\n"
        "print('first')\n"
        f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)\n"
        "print('second', end='')\n",
    )
    agent = start()
    _until(lambda: _log(store) == b"first\n")
    assert agent.poll() is None
    assert store.get("runs/r/result.json") is None
    go.touch()

    assert agent.wait(_PATIENCE) == 0
    assert _log(store) == b"first\nsecond"


def test_the_heartbeat_carries_progress(
    store: Store, tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    _spec(
        store,
        "import pathlib, time\n"
        "pathlib.Path('out/progress.json').write_text('{\"step\": 3, \"total_steps\": 9}')\n"
        "time.sleep(600)\n",
    )
    start()

    def beat() -> Heartbeat | None:
        return read(store, "runs/r/heartbeat.json", Heartbeat)

    _until(lambda: (one := beat()) and one.progress == {"step": 3, "total_steps": 9})
    first = beat()
    assert first
    assert first.state == "running"
    _until(lambda: (one := beat()) and one.time > first.time)  # it goes on beating


def test_progress_that_cannot_be_read_is_no_progress(store: Store, tmp_path: Path) -> None:
    _spec(store, "open('out/progress.json', 'w').write('[half')")
    assert _run(store, tmp_path / "job").cause is None
    heartbeat = read(store, "runs/r/heartbeat.json", Heartbeat)
    assert heartbeat
    assert heartbeat.progress == {}


def test_the_result_is_the_last_object(tmp_path: Path) -> None:
    written: list[str] = []

    class Recorded(Store):
        def put(self, key: str, data: bytes) -> None:
            super().put(key, data)
            written.append(key)

        def put_file(self, key: str, path: Path, *, move: bool = False) -> None:
            super().put_file(key, path, move=move)
            written.append(key)

    store = Recorded((tmp_path / "store").as_uri(), tmp_path / "store")
    _spec(store, "open('out/last.txt', 'w').write('x'); print('bye')")
    _run(store, tmp_path / "job")

    assert {"runs/r/last.txt", "runs/r/log/000000000000.txt"} <= set(written)
    assert written.index("runs/r/result.json") == len(written) - 1


def test_the_job_gets_no_key(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "LINODE_TOKEN", "PREFECT_API_KEY"):
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("WANDB_API_KEY", "for the job")
    _spec(store, "import json, os; print(json.dumps(dict(os.environ)))")
    _run(store, tmp_path / "job")

    env = json.loads(_log(store))
    assert "canary" not in env.values()
    assert {key: value for key, value in env.items() if key.startswith("AWS_")} == {
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_CONFIG_FILE": "/dev/null",
    }
    assert not [key for key in env if key.startswith(("LINODE_", "PREFECT_"))]
    assert env["WANDB_API_KEY"] == "for the job"


def test_everything_goes_to_a_bucket_as_well(
    rgw: RGW, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in rgw.environment().items():
        monkeypatch.setenv(name, value)
    store = Store.open(f"s3://{rgw.create_bucket('agent-test')}/prefix")
    content = os.urandom(9 << 20)
    store.put("datasets/x/shard", content)
    shard = Input(
        key="datasets/x/shard",
        path="dataset/shard",
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    _spec(
        store,
        "import os, shutil\n"
        "os.makedirs('out/checkpoints/1')\n"
        "shutil.copy('dataset/shard', 'out/checkpoints/1/blob')\n"
        "print(sorted(key for key in os.environ if key.startswith('AWS_')))\n",
        inputs=[shard],
    )
    assert _run(store, tmp_path / "job").cause is None
    assert store.get("runs/r/checkpoints/1/blob") == content
    assert _log(store) == b"['AWS_CONFIG_FILE', 'AWS_SHARED_CREDENTIALS_FILE']\n"


# How jobs end: Python text, exit code, cause, a part of the message.
_ENDS = {
    "its own word": (
        'open("out/failure.json", "w").write(\'{"cause": "BAD_INPUT", "message": "take care"}\')\n'
        "raise SystemExit(2)",
        (2, Cause.BAD_INPUT, "take care"),
    ),
    "a word that is none": (
        "open('out/failure.json', 'w').write('{\"cause\": \"WHO\"}'); raise SystemExit('my bad')",
        (1, Cause.USER_ERROR, "code 1: my bad"),
    ),
    "killed": (
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        (-9, Cause.OUT_OF_MEMORY, "batch_size"),
    ),
    "an exception": ("print('one'); 1 / 0", (1, Cause.USER_ERROR, "ZeroDivisionError: division")),
    "no word at all": ("raise SystemExit(3)", (3, Cause.USER_ERROR, "ended with code 3")),
}


@pytest.mark.parametrize("how", _ENDS)
def test_every_end_has_a_cause(store: Store, tmp_path: Path, how: str) -> None:
    code, (exit_code, cause, message) = _ENDS[how]
    _spec(store, code)
    result = _run(store, tmp_path / "job")
    assert (result.exit_code, result.cause) == (exit_code, cause)
    assert message in result.message


def test_an_earlier_attempts_failure_is_forgotten(store: Store, tmp_path: Path) -> None:
    _spec(store, _ENDS["its own word"][0])
    assert _run(store, tmp_path / "job").cause is Cause.BAD_INPUT
    _spec(store, "raise SystemExit(1)")
    assert _run(store, tmp_path / "job").cause is Cause.USER_ERROR


def test_the_deadline_stops_the_job(store: Store, tmp_path: Path) -> None:
    _spec(store, "import time; time.sleep(600)", deadline=0)
    result = _run(store, tmp_path / "job")
    assert (result.cause, result.exit_code) == (Cause.DEADLINE, -signal.SIGTERM)
    assert "time limit" in result.message


# Ends half a second after the first SIGTERM, with the number of SIGTERMs that came.
_writes_on_sigterm = """
import os, signal, sys, threading, time
came = []
signal.signal(signal.SIGTERM, lambda *_: came.append(1))
print('ready', os.getpid(), flush=True)
while not came: time.sleep(0.01)
time.sleep(0.5)
os.makedirs('out/checkpoints/1')
open('out/checkpoints/1/blob', 'w').write(f'SIGTERM {len(came)}\\n')
sys.exit(143)
"""


def test_stopping_the_agent_stops_the_job_once(
    store: Store, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    _spec(store, _writes_on_sigterm)
    agent = start()
    _until(lambda: _log(store).startswith(b"ready"))
    job = int(_log(store).split()[1])
    agent.terminate()
    agent.terminate()

    assert agent.wait(_PATIENCE) == 1
    result = read(store, "runs/r/result.json", Result)
    assert result
    assert (result.cause, result.exit_code) == (Cause.CANCELLED, 143)
    assert store.get("runs/r/checkpoints/1/blob") == b"SIGTERM 1\n"
    assert not _runs(job)


def test_whoever_ignores_the_signal_is_killed_after_the_grace(
    store: Store, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    _spec(
        store,
        "import os, subprocess, sys\n"
        f"{deaf}"
        f"child = subprocess.Popen([sys.executable, '-c', {deaf + 'time.sleep(600)'!r}])\n"
        "print(os.getpid(), child.pid, flush=True)\n"
        "time.sleep(600)\n",
    )
    agent = start("--grace", "0.2")
    _until(lambda: _log(store))
    family = [int(pid) for pid in _log(store).split()]
    assert all(_runs(one) for one in family)
    agent.terminate()

    assert agent.wait(_PATIENCE) == 1
    result = read(store, "runs/r/result.json", Result)
    assert result
    assert (result.cause, result.exit_code) == (Cause.CANCELLED, -9)
    _until(lambda: not any(_runs(one) for one in family))


def test_what_a_job_leaves_behind_ends_with_it(store: Store, tmp_path: Path) -> None:
    _spec(
        store,
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid)\n",
    )
    assert _run(store, tmp_path / "job").cause is None
    pid = int(_log(store))
    _until(lambda: not _runs(pid))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_a_killed_agent_takes_its_job_along(
    store: Store, tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    _spec(store, _writes_on_sigterm)
    agent = start()
    _until(lambda: _log(store).startswith(b"ready"))
    job = int(_log(store).split()[1])
    agent.kill()

    _until(lambda: not _runs(job))
    # The kernel may tell it once for each of the agent's threads.
    assert (tmp_path / "job/out/checkpoints/1/blob").read_text().startswith("SIGTERM")


def _runs(pid: int) -> bool:
    try:
        # A zombie has ended; whoever adopted it has only not looked yet.
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_second_agent_elsewhere_goes_on_from_what_verifies(store: Store, tmp_path: Path) -> None:
    _spec(
        store,
        "import hashlib, json, os, sys\n"
        "print(sorted(os.listdir('out/checkpoints')) if os.path.exists('out/checkpoints') else 0)\n"
        "for step in '123':\n"
        "    folder = 'out/checkpoints/' + step\n"
        "    os.makedirs(folder, exist_ok=True)\n"
        "    open(folder + '/blob', 'w').write(step)\n"
        "    sha256 = hashlib.sha256(step.encode()).hexdigest()\n"
        "    open(folder + '/manifest.json', 'w').write(json.dumps({'sha256': sha256}))\n",
    )
    _run(store, tmp_path / "job")
    store.put("runs/r/checkpoints/2/blob", b"damaged")
    _run(store, tmp_path / "elsewhere")

    assert _log(store) == b"0\n['1', '3']\n"  # and the log goes on where the first one ended
    assert store.get("runs/r/checkpoints/2/blob") == b"2"


def test_a_store_that_is_away_for_a_while_misses_nothing(
    store: Store, tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    go = tmp_path / "go"
    _spec(
        store,
        "import os, pathlib, time\n"
        "print('before', flush=True)\n"
        "pathlib.Path('out/metrics.jsonl').write_text('1')\n"
        f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)\n"
        "print('meanwhile', flush=True)\n"
        "pathlib.Path('out/metrics.jsonl').write_text('12')\n"
        f"while pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)\n"
        "print('after')\n",
    )
    agent = start()
    _until(lambda: store.get("runs/r/metrics.jsonl") == b"1")
    folder, aside = tmp_path / "store", tmp_path / "aside"
    folder.rename(aside)
    folder.touch()  # in the way, so that nothing can be written there
    go.touch()
    _until(lambda: "STORE" in (tmp_path / "agent.log").read_text())
    _until(lambda: (tmp_path / "job/out/metrics.jsonl").read_text() == "12")
    assert agent.poll() is None
    folder.unlink()
    aside.rename(folder)
    _until(lambda: _log(store) == b"before\nmeanwhile\n")
    go.unlink()

    assert agent.wait(_PATIENCE) == 0
    assert _log(store) == b"before\nmeanwhile\nafter\n"
    assert store.get("runs/r/metrics.jsonl") == b"12"


def test_an_upload_that_hangs_holds_up_no_stop(tmp_path: Path) -> None:
    class Hanging(Store):
        def put_file(self, key: str, path: Path, *, move: bool = False) -> None:
            agent.stop()
            job = int(path.read_text())
            _until(lambda: not _runs(job))
            super().put_file(key, path, move=move)

    store = Hanging((tmp_path / "store").as_uri(), tmp_path / "store")
    _spec(
        store,
        "import os, pathlib, time\n"
        "pathlib.Path('.pid').write_text(str(os.getpid()))\n"
        "os.rename('.pid', 'out/pid')\n"
        "time.sleep(600)\n",
    )
    agent = Agent(store, "r", tmp_path / "job", 0.05)
    assert agent.run().cause is Cause.CANCELLED
    assert store.get("runs/r/pid")


def test_a_damaged_input_is_named_and_not_used(store: Store, tmp_path: Path) -> None:
    store.put("datasets/abc/shards/0.tar", b"damaged")
    shard = {"key": "datasets/abc/shards/0.tar", "path": "dataset/0.tar", "size": 7}
    _spec(store, "print('ran')", inputs=[shard | {"sha256": "0" * 64}])
    result = _run(store, tmp_path / "job")

    assert result.cause is Cause.CORRUPT
    assert "datasets/abc/shards/0.tar" in result.message
    assert _log(store) == b""
    assert not (tmp_path / "job/dataset/0.tar").exists()


def test_a_missing_input_is_named(store: Store, tmp_path: Path) -> None:
    shard = {"key": "datasets/abc/0.tar", "path": "dataset/0.tar", "size": 7, "sha256": "0" * 64}
    _spec(store, "print('ran')", inputs=[shard])
    result = _run(store, tmp_path / "job")
    assert result.cause is Cause.STORE
    assert "no datasets/abc/0.tar in" in result.message


def test_an_input_in_a_folder_is_not_copied(store: Store, tmp_path: Path) -> None:
    store.put("shard", b"samples")
    sha256 = hashlib.sha256(b"samples").hexdigest()
    wanted = {"key": "shard", "path": "dataset/shard", "size": 7, "sha256": sha256}
    _spec(store, "print(open('dataset/shard').read())", inputs=[wanted])
    assert _run(store, tmp_path / "job").cause is None
    assert (tmp_path / "job/dataset/shard").is_symlink()
    assert _log(store) == b"samples\n"


def test_without_a_spec_there_is_no_run(store: Store, tmp_path: Path) -> None:
    result = _run(store, tmp_path / "job")
    assert result.cause is Cause.BAD_INPUT
    assert "no run r" in result.message


@pytest.mark.parametrize("inputs", [0, 1])
def test_a_stop_before_the_job_starts_none(store: Store, tmp_path: Path, inputs: int) -> None:
    gone = {"key": "gone", "path": "gone", "size": 7, "sha256": "0" * 64}  # not even asked for
    _spec(store, "print('ran')", inputs=inputs * [gone])
    agent = Agent(store, "r", tmp_path / "job", 0.05)
    agent.stop()
    assert agent.run().cause is Cause.CANCELLED
    assert _log(store) == b""


def test_an_agent_that_fails_itself_says_so(store: Store, tmp_path: Path) -> None:
    store.put("runs/r/spec.json", b'{"run_id":"r","argv":[],"deadline_seconds":1}')
    result = _run(store, tmp_path / "job")
    assert result.cause is Cause.AGENT_LOST
    assert "The agent failed (" in result.message


def test_a_damaged_spec_is_named(store: Store, tmp_path: Path) -> None:
    store.put("runs/r/spec.json", b'{"half')
    result = _run(store, tmp_path / "job")
    assert result.cause is Cause.CORRUPT
    assert "runs/r/spec.json" in result.message


def test_a_mirror_that_fails_neither_stops_the_job_nor_hides_the_end(tmp_path: Path) -> None:
    class Broken(Store):
        def put_file(self, key: str, path: Path, *, move: bool = False) -> None:
            raise RuntimeError("a bug")

    store = Broken((tmp_path / "store").as_uri(), tmp_path / "store")
    _spec(
        store,
        "import pathlib, time\n"
        "pathlib.Path('out/metrics.jsonl').write_text('1')\n"
        "time.sleep(0.5)\n"
        "print('to the end')\n",
    )
    result = _run(store, tmp_path / "job")
    assert result.cause is Cause.AGENT_LOST
    assert "RuntimeError: a bug" in result.message
    assert _log(store) == b"to the end\n"


def test_an_agent_without_a_store_says_why(
    tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    agent = start("--store", "ftp://nowhere")
    assert agent.wait(_PATIENCE) == 1
    assert "not a store" in (tmp_path / "agent.log").read_text()


def test_whoever_cancels_does_not_wait_for_a_dead_store(store: Store, tmp_path: Path) -> None:
    _spec(store, "print('ran')")
    agent = Agent(store, "r", tmp_path / "job", 0.05)
    agent.stop()
    (tmp_path / "store").rename(tmp_path / "aside")
    (tmp_path / "store").touch()
    with pytest.raises(Failure) as caught:
        agent.run()
    assert caught.value.cause is Cause.STORE


def test_interrupt_is_a_stop_too(
    store: Store, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    _spec(store, "print('ready', flush=True); import time; time.sleep(600)")
    agent = start()
    _until(lambda: _log(store) == b"ready\n")
    agent.send_signal(signal.SIGINT)
    assert agent.wait(_PATIENCE) == 1
    result = read(store, "runs/r/result.json", Result)
    assert result
    assert result.cause is Cause.CANCELLED
