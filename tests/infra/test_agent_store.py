"""An agent whose store is away, refuses, hangs or breaks: the job goes on, and its words arrive."""

import hashlib
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents import PATIENCE, is_running, log_of, put_spec, run_agent, until
from infra.agent import UNSENT, Agent
from infra.failure import Cause, Failure
from infra.protocol import Heartbeat, Result
from infra.stores import Store


def test_a_store_that_is_away_for_a_while_misses_nothing(
    store: Store, tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    go = tmp_path / "go"
    put_spec(
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
    until(lambda: store.get("runs/r/metrics.jsonl") == b"1")
    folder, aside = tmp_path / "store", tmp_path / "aside"
    folder.rename(aside)
    folder.touch()  # in the way, so that nothing can be written there
    go.touch()
    until(lambda: "STORE" in (tmp_path / "agent.log").read_text())
    until(lambda: (tmp_path / "job/out/metrics.jsonl").read_text() == "12")
    assert agent.poll() is None
    folder.unlink()
    aside.rename(folder)
    until(lambda: log_of(store) == b"before\nmeanwhile\n")
    go.unlink()

    assert agent.wait(PATIENCE) == 0
    assert log_of(store) == b"before\nmeanwhile\nafter\n"
    assert store.get("runs/r/metrics.jsonl") == b"12"


def test_a_store_that_is_away_for_long_stops_no_job(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away(Store):
        tries = 0

        def put_file(self, key: str, path: Path, *, move: bool = False) -> None:
            self.tries += 1
            if self.tries < 3:
                raise Failure(Cause.STORE, "The store does not answer.")
            go.touch()
            super().put_file(key, path, move=move)

    go = tmp_path / "go"
    monkeypatch.setattr("infra.agent._REFUSED", 0.0)
    put_spec(
        store,
        "import os, time\nopen('out/metrics.jsonl', 'w').close()\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.01)\n",
    )
    away = Away(store.url, tmp_path / "store")
    assert Agent(away, "r", tmp_path / "job", 0.05).run().cause is None


def test_a_store_that_refuses_for_long_stops_the_job(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(Store):
        def put_file(self, key: str, path: Path, *, move: bool = False) -> None:
            raise Failure(Cause.STORE, "The store is full.", permanent=True)

    monkeypatch.setattr("infra.agent._REFUSED", 0.0)
    monkeypatch.setattr("infra.agent._REFUSED_LAST", 0.0)
    put_spec(store, "open('out/metrics.jsonl', 'w').close()\nimport time\ntime.sleep(600)\n")
    full = Full(store.url, tmp_path / "store")
    with pytest.raises(Failure, match="The store is full"):
        Agent(full, "r", tmp_path / "job", 0.05).run()
    unsent = Result.model_validate_json((tmp_path / "job" / UNSENT).read_bytes())
    assert (unsent.cause, unsent.exit_code) == (Cause.STORE, -signal.SIGTERM)
    assert str(tmp_path / "job/out") in unsent.message


def test_an_upload_that_hangs_holds_up_no_stop(tmp_path: Path) -> None:
    class Hanging(Store):
        def put_file(self, key: str, path: Path, *, move: bool = False) -> None:
            agent.stop()
            job = int(path.read_text())
            until(lambda: not is_running(job))
            super().put_file(key, path, move=move)

    store = Hanging((tmp_path / "store").as_uri(), tmp_path / "store")
    put_spec(
        store,
        "import os, pathlib, time\n"
        "pathlib.Path('.pid').write_text(str(os.getpid()))\n"
        "os.rename('.pid', 'out/pid')\n"
        "time.sleep(600)\n",
    )
    agent = Agent(store, "r", tmp_path / "job", 0.05)
    assert agent.run().cause is Cause.CANCELLED
    assert store.get("runs/r/pid")


def test_a_mirror_that_fails_neither_stops_the_job_nor_hides_the_end(tmp_path: Path) -> None:
    class Broken(Store):
        def put_file(self, key: str, path: Path, *, move: bool = False) -> None:
            raise RuntimeError("a bug")

    store = Broken((tmp_path / "store").as_uri(), tmp_path / "store")
    put_spec(
        store,
        "import pathlib, time\n"
        "pathlib.Path('out/metrics.jsonl').write_text('1')\n"
        "time.sleep(0.5)\n"
        "print('to the end')\n",
    )
    result = run_agent(store, tmp_path / "job")
    assert result.cause is Cause.INTERNAL
    assert "RuntimeError: a bug" in result.message
    assert log_of(store) == b"to the end\n"


def test_whoever_cancels_does_not_wait_for_a_dead_store(store: Store, tmp_path: Path) -> None:
    put_spec(store, "print('ran')")
    agent = Agent(store, "r", tmp_path / "job", 0.05)
    agent.stop()
    (tmp_path / "store").rename(tmp_path / "aside")
    (tmp_path / "store").touch()
    with pytest.raises(Failure) as caught:
        agent.run()
    assert caught.value.cause is Cause.STORE


def test_the_heart_beats_whatever_the_agent_waits_for(store: Store, tmp_path: Path) -> None:
    """Inputs that take long, and a last upload that does."""
    waited_in = []

    class Slow(Store):
        def get_file(self, key: str, *args: Any, **more: Any) -> None:
            wait_for_two_beats()
            super().get_file(key, *args, **more)

        def put_file(self, key: str, *args: Any, **more: Any) -> None:
            wait_for_two_beats()
            super().put_file(key, *args, **more)

    def beat() -> Heartbeat | None:
        return store.read("runs/r/heartbeat.json", Heartbeat)

    def wait_for_two_beats() -> None:
        for _ in range(2):
            before = beat()
            until(lambda: beat() != before)  # noqa: B023
        heartbeat = beat()
        assert heartbeat is not None
        waited_in.append(heartbeat.state)

    store.put("shard", b"samples")
    sha256 = hashlib.sha256(b"samples").hexdigest()
    wanted = {"key": "shard", "path": "dataset/shard", "size": 7, "sha256": sha256}
    put_spec(store, "open('out/wandb', 'w').close()", inputs=[wanted])
    slow = Slow(store.url, tmp_path / "store")
    assert Agent(slow, "r", tmp_path / "job", 0.05).run().cause is None
    assert waited_in[0] == "preparing"
    assert waited_in[-1] in ("running", "finishing")
