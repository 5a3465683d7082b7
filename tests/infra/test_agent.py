"""The agent with real small jobs: what it takes from the store, and what arrives there."""

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agents import PATIENCE, log_of, put_spec, run_agent, until
from infra.failure import Cause
from infra.protocol import Heartbeat, Input
from infra.stores import Store
from servers.rgw import RGW


def test_what_a_job_says_and_makes_arrives(store: Store, tmp_path: Path) -> None:
    put_spec(
        store,
        "import os, sys\n"
        "print(open('dataset/words.txt').read())\n"
        "print('to stderr', file=sys.stderr)\n"
        "os.write(1, bytes(range(256)))\n"  # any bytes, no newline at the end
        "open('out/metrics.jsonl', 'w').write('{}\\n')\n",
        files={"dataset/words.txt": "grüß Gott"},
    )
    result = run_agent(store, tmp_path / "job")

    assert (result.exit_code, result.cause) == (0, None)
    assert result.started <= result.ended
    assert log_of(store) == "grüß Gott\nto stderr\n".encode() + bytes(range(256))
    assert store.get("runs/r/metrics.jsonl") == b"{}\n"


def test_the_log_arrives_while_the_job_runs(
    store: Store, tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    go = tmp_path / "go"
    put_spec(
        store,
        "import pathlib, time\n"
        "print('first')\n"
        f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)\n"
        "print('second', end='')\n",
    )
    agent = start()
    until(lambda: log_of(store) == b"first\n")
    assert agent.poll() is None
    assert store.get("runs/r/result.json") is None
    go.touch()

    assert agent.wait(PATIENCE) == 0
    assert log_of(store) == b"first\nsecond"


def test_the_heartbeat_carries_progress(
    store: Store, tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    put_spec(
        store,
        "import pathlib, time\n"
        "pathlib.Path('out/progress.json').write_text('{\"step\": 3, \"total_steps\": 9}')\n"
        "time.sleep(600)\n",
    )
    start()

    def beat() -> Heartbeat | None:
        return store.read("runs/r/heartbeat.json", Heartbeat)

    until(lambda: (one := beat()) and one.progress == {"step": 3, "total_steps": 9})
    first = beat()
    assert first
    assert first.state == "running"
    until(lambda: (one := beat()) and one.time > first.time)  # it goes on beating


def test_progress_that_cannot_be_read_is_no_progress(store: Store, tmp_path: Path) -> None:
    put_spec(store, "open('out/progress.json', 'w').write('[half')")
    assert run_agent(store, tmp_path / "job").cause is None
    heartbeat = store.read("runs/r/heartbeat.json", Heartbeat)
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
    put_spec(store, "open('out/last.txt', 'w').write('x'); print('bye')")
    run_agent(store, tmp_path / "job")

    assert {"runs/r/last.txt", "runs/r/log/000000000000.txt"} <= set(written)
    assert written.index("runs/r/result.json") == len(written) - 1


def test_the_job_gets_no_key(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "LINODE_TOKEN", "PREFECT_API_KEY"):
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("WANDB_API_KEY", "for the job")
    put_spec(store, "import json, os; print(json.dumps(dict(os.environ)))")
    run_agent(store, tmp_path / "job")

    env = json.loads(log_of(store))
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
    put_spec(
        store,
        "import os, shutil\n"
        "os.makedirs('out/checkpoints/1')\n"
        "shutil.copy('dataset/shard', 'out/checkpoints/1/blob')\n"
        "print(sorted(key for key in os.environ if key.startswith('AWS_')))\n",
        inputs=[shard],
    )
    assert run_agent(store, tmp_path / "job").cause is None
    assert store.get("runs/r/checkpoints/1/blob") == content
    assert log_of(store) == b"['AWS_CONFIG_FILE', 'AWS_SHARED_CREDENTIALS_FILE']\n"


def test_a_second_agent_elsewhere_goes_on_from_what_verifies(store: Store, tmp_path: Path) -> None:
    put_spec(
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
    run_agent(store, tmp_path / "job")
    store.put("runs/r/checkpoints/2/blob", b"damaged")
    run_agent(store, tmp_path / "elsewhere")

    assert log_of(store) == b"0\n['1', '3']\n"  # and the log goes on where the first one ended
    assert store.get("runs/r/checkpoints/2/blob") == b"2"


def test_a_damaged_input_is_named_and_not_used(store: Store, tmp_path: Path) -> None:
    store.put("datasets/abc/shards/0.tar", b"damaged")
    shard = {"key": "datasets/abc/shards/0.tar", "path": "dataset/0.tar", "size": 7}
    put_spec(store, "print('ran')", inputs=[shard | {"sha256": "0" * 64}])
    result = run_agent(store, tmp_path / "job")

    assert result.cause is Cause.CORRUPT
    assert "datasets/abc/shards/0.tar" in result.message
    assert log_of(store) == b""
    assert not (tmp_path / "job/dataset/0.tar").exists()


def test_a_missing_input_is_named(store: Store, tmp_path: Path) -> None:
    shard = {"key": "datasets/abc/0.tar", "path": "dataset/0.tar", "size": 7, "sha256": "0" * 64}
    put_spec(store, "print('ran')", inputs=[shard])
    result = run_agent(store, tmp_path / "job")
    assert result.cause is Cause.STORE
    assert "no datasets/abc/0.tar in" in result.message


def test_an_input_in_a_folder_is_not_copied(store: Store, tmp_path: Path) -> None:
    store.put("shard", b"samples")
    sha256 = hashlib.sha256(b"samples").hexdigest()
    wanted = {"key": "shard", "path": "dataset/shard", "size": 7, "sha256": sha256}
    put_spec(store, "print(open('dataset/shard').read())", inputs=[wanted])
    assert run_agent(store, tmp_path / "job").cause is None
    assert (tmp_path / "job/dataset/shard").is_symlink()
    assert log_of(store) == b"samples\n"


def test_without_a_spec_there_is_no_run(store: Store, tmp_path: Path) -> None:
    result = run_agent(store, tmp_path / "job")
    assert result.cause is Cause.BAD_INPUT
    assert "no run r" in result.message


def test_an_agent_that_fails_itself_says_so(store: Store, tmp_path: Path) -> None:
    store.put("runs/r/spec.json", b'{"run_id":"r","argv":[],"deadline_seconds":1}')
    result = run_agent(store, tmp_path / "job")
    assert result.cause is Cause.INTERNAL
    assert "The agent failed (" in result.message


def test_a_damaged_spec_is_named(store: Store, tmp_path: Path) -> None:
    store.put("runs/r/spec.json", b'{"half')
    result = run_agent(store, tmp_path / "job")
    assert result.cause is Cause.CORRUPT
    assert "runs/r/spec.json" in result.message


def test_an_agent_without_a_store_says_why(
    tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    agent = start("--store", "ftp://nowhere")
    assert agent.wait(PATIENCE) == 1
    assert "not a store" in (tmp_path / "agent.log").read_text()


def test_the_time_limit_counts_from_the_agents_start(store: Store, tmp_path: Path) -> None:
    """What a slow download takes is not given again to the job."""
    put_spec(store, "print('began')", deadline=0)
    result = run_agent(store, tmp_path / "job")
    assert result.cause is Cause.DEADLINE
    assert not log_of(store)
