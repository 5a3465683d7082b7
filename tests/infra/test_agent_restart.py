"""An agent that is started again where an earlier one was cut off: nothing is lost, nothing won."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agents import PATIENCE, is_running, log_of, put_spec, run_agent, until
from infra import launch
from infra.agent import Agent
from infra.failure import Cause, Failure
from infra.protocol import Result
from infra.restart import RESTART
from infra.stores import Store
from servers.requirements import require

Start = Callable[..., subprocess.Popen[bytes]]

_working = "print('at work', flush=True); import time; time.sleep(600)"
_makes = """
import hashlib, json, os, pathlib, signal, sys, time
def make(step):
    folder = pathlib.Path("out/checkpoints") / step
    folder.mkdir(parents=True)
    (folder / "blob").write_text(step)
    sha256 = hashlib.sha256(step.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({"sha256": sha256}))
"""
# Works without end at first; goes on at the second start.
_twice = f"""
{_makes}
def stop(*_):
    make("2")
    print("stopped", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
if os.path.exists("out/checkpoints/1"):
    print("goes on with", *sorted(os.listdir("out/checkpoints")), flush=True)
else:
    make("1")
    print("at one", flush=True)
    time.sleep(600)
"""


def _result(store: Store) -> Result:
    result = store.read("runs/r/result.json", Result)
    assert result
    return result


def _kill(agent: subprocess.Popen[bytes]) -> None:
    agent.kill()
    agent.wait()


def _spend(note: Path, seconds: float) -> None:
    """As if the earlier agent had worked for so much longer."""
    said = json.loads(note.read_text())
    said["remaining"] -= seconds
    note.write_text(json.dumps(said))


def test_a_deadline_that_was_reached_meanwhile_lets_no_job_begin(
    store: Store, tmp_path: Path, start: Start
) -> None:
    put_spec(store, _working)
    agent = start()
    until(lambda: log_of(store))
    _kill(agent)
    _spend(tmp_path / "job/deadline.json", 600)
    assert run_agent(store, tmp_path / "job").cause is Cause.DEADLINE
    assert log_of(store) == b"at work\n"
    put_spec(store, "print('another order')")
    assert run_agent(store, tmp_path / "job").cause is None


def test_only_what_was_left_is_given(store: Store, tmp_path: Path, start: Start) -> None:
    put_spec(store, _working)
    agent = start()
    until(lambda: log_of(store))
    _kill(agent)
    _spend(tmp_path / "job/deadline.json", 597)
    assert start().wait(PATIENCE) == 1
    assert _result(store).cause is Cause.DEADLINE


def test_what_was_made_while_the_store_was_away_follows_in_order(
    store: Store, tmp_path: Path, start: Start
) -> None:
    """The agent is killed meanwhile, and started again before the store is back."""
    go = tmp_path / "go"
    put_spec(
        store,
        f"{_makes}"
        "if os.path.exists('out/checkpoints/1'):\n"
        "    print('again', *sorted(os.listdir('out/checkpoints')))\n"
        "    sys.exit()\n"
        "print('before', flush=True)\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
        "for step in '12': make(step)\n"
        "print('meanwhile', flush=True)\n"
        "time.sleep(600)\n",
    )
    agent = start()
    until(lambda: log_of(store) == b"before\n")
    folder, aside = tmp_path / "store", tmp_path / "aside"
    folder.rename(aside)
    folder.touch()  # in the way, so that nothing can be written there
    go.touch()
    until(lambda: "meanwhile" in (tmp_path / "job/log.txt").read_text())
    _kill(agent)
    folder.unlink()
    aside.rename(folder)

    class BackLater(Store):
        asked = 0

        def get(self, key: str) -> bytes | None:
            self.asked += 1
            if self.asked < 4:
                raise Failure(Cause.STORE, "The store does not answer.")
            return super().get(key)

    back = BackLater(store.url, folder)
    assert Agent(back, "r", tmp_path / "job", 0.05).run().cause is None
    assert log_of(store) == b"before\nmeanwhile\nagain 1 2\n"
    assert store.get("runs/r/checkpoints/2/blob") == b"2"


def test_a_checkpoint_that_waited_comes_blob_first(store: Store, tmp_path: Path) -> None:
    written: list[str] = []

    class BackLater(Store):
        refused = 0

        def put_file(self, key: str, path: Path, *, move: bool = False) -> None:
            if self.refused < 3:
                self.refused += 1
                raise Failure(Cause.STORE, "The store does not answer.")
            go.touch()
            super().put_file(key, path, move=move)
            written.append(key.removeprefix("runs/r/checkpoints/"))

    go = tmp_path / "go"
    put_spec(
        store,
        f"{_makes}for step in '12': make(step)\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.01)\n",
    )
    late = BackLater(store.url, tmp_path / "store")
    assert Agent(late, "r", tmp_path / "job", 0.05).run().cause is None
    assert {"1/blob", "1/manifest.json", "2/blob", "2/manifest.json"} == set(written)
    for step in "12":
        assert written.index(f"{step}/blob") < written.index(f"{step}/manifest.json")


def test_a_store_that_is_away_from_the_first_is_not_waited_for(
    store: Store, tmp_path: Path
) -> None:
    put_spec(store, "print('ran')")
    agent = Agent(store, "r", tmp_path / "job", 0.05)
    agent.stop()  # so that nobody waits for the last words
    (tmp_path / "store").rename(tmp_path / "aside")
    (tmp_path / "store").touch()
    with pytest.raises(Failure) as caught:
        agent.run()
    assert caught.value.cause is Cause.STORE


def test_whoever_goes_down_with_the_machine_leaves_an_order_to_go_on(
    store: Store, tmp_path: Path, start: Start
) -> None:
    secrets = tmp_path / "secrets.json"
    secrets.write_text('{"WANDB_API_KEY": "canary\'s"}')
    put_spec(store, f"{_twice}\nprint(os.environ['WANDB_API_KEY'])\n")
    order = tmp_path / RESTART
    agent = start("--restart", "--secrets", str(secrets))
    until(lambda: log_of(store) == b"at one\n")
    assert order.stat().st_mode & 0o777 == 0o600
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(PATIENCE) == 1
    assert store.get("runs/r/result.json") is None
    assert store.get("runs/r/checkpoints/2/manifest.json")  # sent while there was time
    assert order.exists()

    done = subprocess.run([require("sh", "dash"), str(order)], cwd="/", timeout=PATIENCE)
    assert done.returncode == 0
    until(lambda: store.get("runs/r/result.json"))
    assert _result(store).cause is None
    assert log_of(store) == b"at one\nstopped\ngoes on with 1 2\ncanary's\n"
    until(lambda: not order.exists())


def test_a_job_that_hears_of_the_shutdown_first_is_no_failure(
    store: Store, tmp_path: Path, start: Start
) -> None:
    put_spec(store, f"import os\nprint(os.getpid(), flush=True)\n{_twice}")
    agent = start("--restart")
    until(lambda: b"at one" in log_of(store))
    job = int(log_of(store).split()[0])
    os.kill(job, signal.SIGTERM)
    until(lambda: not is_running(job))
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(PATIENCE) == 1
    assert store.get("runs/r/result.json") is None
    assert (tmp_path / RESTART).exists()


def test_who_is_told_to_stop_or_killed_for_good_is_not_started_again(
    store: Store, tmp_path: Path, start: Start
) -> None:
    put_spec(store, _working)
    agent = start("--restart")
    until(lambda: log_of(store))
    launch.stop(tmp_path)
    assert agent.wait(PATIENCE) == 1
    assert _result(store).cause is Cause.CANCELLED
    assert not (tmp_path / RESTART).exists()

    assert launch.start(tmp_path, store.url, "r", b"{}", restart=True) is None
    until(lambda: log_of(store).count(b"at work") == 2)
    agent, _ = (tmp_path / "job/agent").read_text().split()
    job = int((tmp_path / "job/group").read_text().split()[0])
    assert (tmp_path / RESTART).exists()
    launch.kill(tmp_path)
    until(lambda: not is_running(job) and not is_running(int(agent)))
    assert not (tmp_path / RESTART).exists()


def test_where_nobody_restarts_it_no_order_is_left(
    store: Store, tmp_path: Path, start: Start
) -> None:
    put_spec(store, _working)
    start()
    until(lambda: log_of(store))
    assert not (tmp_path / RESTART).exists()
