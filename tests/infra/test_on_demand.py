"""Inputs on demand: what a job asks for comes, within its room; else the job is stopped."""

import hashlib
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents import PATIENCE, log_of, put_spec, run_agent, until
from infra.agent import Agent
from infra.failure import Cause, Failure
from infra.protocol import OnDemand, Result
from infra.stores import Store
from servers.rgw import RGW

_BLOCK = 1000  # bytes of an input


def _put(store: Store, count: int = 6) -> dict[str, Any]:
    """So many inputs in the store; as a spec has them, with room for two."""
    inputs = []
    for number in range(count):
        data = bytes([number]) * _BLOCK
        store.put(f"big/{number}", data)
        sha256 = hashlib.sha256(data).hexdigest()
        path = f"big/{number}"
        inputs.append({"key": path, "path": path, "size": _BLOCK, "sha256": sha256})
    return OnDemand.model_validate({"inputs": inputs, "room": 2 * _BLOCK + 1}).model_dump()


# The beginning of a job that wants inputs, and waits for what it names.
_JOB = """
import os, time
def want(*numbers):
    with open('.wanted', 'w') as file:
        file.writelines(f'big/{n}\\n' for n in numbers)
    os.rename('.wanted', 'wanted')
def there():
    return sorted(n for n in os.listdir('big') if n.isdecimal())
def wait(*names):
    while there() != sorted(names):
        time.sleep(0.01)
"""


def test_what_is_wanted_comes_and_the_rest_goes(store: Store, tmp_path: Path) -> None:
    put_spec(
        store,
        f"{_JOB}\nprint(there())\nwant(3, 1)\nwait('1', '3')\nprint(ord(open('big/3').read(1)))"
        "\nwant(1, 0, 5)\nwait('0', '1')\nwant()\nwait()\nwant(5, 5, 4, 2)\nwait('4', '5')\n"
        "want(0, 1, 4, 5)\nwait('0', '1')",
        on_demand=_put(store),
    )
    result = run_agent(store, tmp_path / "job")
    assert result.cause is None, log_of(store)
    assert log_of(store).decode().split() == ["[]", "3"]


def test_a_bucket_gives_them_too(rgw: RGW, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in rgw.environment().items():
        monkeypatch.setenv(name, value)
    store = Store.open(f"s3://{rgw.create_bucket('on-demand')}/deep")
    put_spec(store, f"{_JOB}want(3, 1)\nwait('1', '3')\nwant(4)\nwait('4')", on_demand=_put(store))
    assert run_agent(store, tmp_path / "job").cause is None, log_of(store)


def test_what_was_damaged_is_not_given_and_ends_the_job(store: Store, tmp_path: Path) -> None:
    wanted = _put(store)
    store.put("big/2", bytes(_BLOCK))
    put_spec(store, f"{_JOB}want(1, 2)\nwait('1', '2')", on_demand=wanted)
    result = run_agent(store, tmp_path / "job")
    assert (result.cause, result.exit_code) == (Cause.CORRUPT, -signal.SIGTERM)
    assert "big/2" in result.message
    assert not (tmp_path / "job/big/2").exists()


def test_what_is_no_input_ends_the_job(store: Store, tmp_path: Path) -> None:
    put_spec(store, f"{_JOB}want('../../spec.json')\ntime.sleep(600)", on_demand=_put(store))
    result = run_agent(store, tmp_path / "job")
    assert result.cause is Cause.USER_ERROR
    assert "none of its inputs" in result.message


class Away(Store):
    """Gives nothing of that kind until it was asked so many times."""

    tries, welcome = 0, 5

    def get_file(self, key: str, path: Path, **more: Any) -> None:
        self.tries += 1
        if self.tries < self.welcome:
            raise Failure(Cause.STORE, "The store does not answer.")
        super().get_file(key, path, **more)


def test_a_store_that_is_away_for_a_while_only_delays(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.on_demand._AGAIN", 0.01)
    put_spec(store, f"{_JOB}want(3)\nwait('3')", on_demand=_put(store))
    away = Away(store.url, tmp_path / "store")
    assert Agent(away, "r", tmp_path / "job", 0.05).run().cause is None
    assert away.tries == away.welcome


def test_one_that_is_away_for_long_ends_the_job(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.agent._AWAY", 0.0)
    put_spec(store, f"{_JOB}want(3)\nwait('3')", on_demand=_put(store))
    away = Away(store.url, tmp_path / "store")
    away.welcome = 1000
    result = Agent(away, "r", tmp_path / "job", 0.05).run()
    assert (result.cause, result.message) == (Cause.STORE, "The store does not answer.")


def test_an_agent_that_was_killed_trusts_nothing_that_is_there(
    store: Store, tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    put_spec(
        store,
        f"{_JOB}if not os.path.exists('again'):\n    want(1, 2)\n    wait('1', '2')\n"
        "    open('again', 'w').close()\n    time.sleep(600)\n"
        "print(there())\nwant(2)\nwait('2')\nprint(len(open('big/2').read()))",
        on_demand=_put(store),
    )
    agent = start()
    until((tmp_path / "job/again").exists)
    agent.kill()
    agent.wait()
    os.truncate(tmp_path / "job/big/2", 10)  # as a power cut may leave it
    (tmp_path / "job/big/.half").mkdir()
    assert start().wait(PATIENCE) == 0
    assert log_of(store).decode().split() == ["[]", str(_BLOCK)]
    assert store.read("runs/r/result.json", Result)
    assert [path.name for path in (tmp_path / "job/big").iterdir()] == ["2"]
