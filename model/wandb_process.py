"""The process that feeds Weights & Biases beside training, and that training never waits for."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WANDB_PATIENCE = 60.0  # seconds that W&B has at the end to take what is left


@contextmanager
def fed_to_wandb(job: Path, mode: str, patience: float) -> Iterator[None]:
    """Feed W&B from the journal in a process of its own, which training never waits for.

    A dead or slow server holds up only that process; at the end it has `patience` seconds to catch
    up, and what it could not deliver still stands in `metrics.jsonl`. What W&B's library has to
    say goes to `out/wandb.log`.
    """
    if mode == "disabled":
        yield
        return
    command = [sys.executable, "-m", "model.wandb_feed", str(job), "--mode", mode, "--follow"]
    command += ["--init-timeout", str(patience / 6)]  # leaves time to write it all offline
    with (job / "out" / "wandb.log").open("wb") as log:
        feed = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log)
    try:
        yield
    finally:
        assert feed.stdin
        feed.stdin.close()  # its sign that nothing more will come
        try:
            if feed.wait(patience):
                print("W&B was not fed, see wandb.log; metrics.jsonl has everything", flush=True)
        except subprocess.TimeoutExpired:
            feed.kill()
            feed.wait()
            print("W&B did not answer in time; metrics.jsonl has everything", flush=True)
