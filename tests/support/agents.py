"""Agents with small jobs: what they are given, what they leave in the store, who still runs."""

import time
from collections.abc import Callable
from pathlib import Path

import psutil

from infra.agent import Agent
from infra.protocol import JobSpec, Result
from infra.stores import Store

PATIENCE = 60.0  # seconds for what takes one on an idle machine


def job_spec(code: str, *, deadline: float = 600, **more: object) -> JobSpec:
    """The job that runs this Python text, as run `r`."""
    return JobSpec.model_validate(
        {"run_id": "r", "argv": ("python", "-c", code), "deadline_seconds": deadline, **more}
    )


def put_spec(store: Store, code: str, *, deadline: float = 600, **more: object) -> None:
    """Put that job into the store."""
    store.write("runs/r/spec.json", job_spec(code, deadline=deadline, **more))


def run_agent(store: Store, job: Path) -> Result:
    """Run the agent here, and see that its last word is in the store."""
    result = Agent(store, "r", job, 0.05).run()
    assert store.read("runs/r/result.json", Result) == result
    return result


def log_of(store: Store) -> bytes:
    """The pieces put together; each is named by where it begins."""
    log = b""
    for entry in store.list("runs/r/log"):
        assert int(Path(entry.key).stem) == len(log)
        log += store.get(entry.key) or b""
    return log


def until(true: Callable[[], object]) -> None:
    """Wait for what must come true."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Whether that process runs still."""
    try:
        # A zombie has ended; whoever adopted it has only not looked yet.
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
