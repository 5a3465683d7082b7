"""The processes that hand things to Weights & Biases: what its server does ends nothing else.

One feeds it beside training, which never waits for it; the other fills a run afterwards.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from model.errors import InputError

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


class WandbError(RuntimeError):
    """W&B did not take what it was to be given; it may do so later."""


class Filled(BaseModel):
    """What was done: `sent` of the journal's `records`, to a run at `place`."""

    model_config = ConfigDict(frozen=True)

    did: Literal["nothing", "added", "replaced"]
    sent: int
    records: int
    place: str  # its URL, or the folder that `wandb sync` takes


Mode = Literal["online", "offline", "alias"]


def filled_at_wandb(
    job: Path, *, mode: Mode, champion: bool, patience: float = WANDB_PATIENCE
) -> Filled:
    """Make a W&B run hold what the journal of `job` says; see `model/wandb_fill.py`.

    The mode "alias" is offline, too, and writes nothing but that the checkpoint is the champion.

    It takes four times `patience`, in seconds, at the most. Raises InputError for what must be put
    right first, WandbError for what may work later.
    """
    command = [sys.executable, "-m", "model.wandb_fill", str(job), "--mode", mode]
    command += ["--patience", str(patience), *(["--champion"] if champion else [])]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=4 * patience)
    except subprocess.TimeoutExpired:
        raise WandbError("it did not answer in time") from None
    last = [line for line in (ended.stdout or ended.stderr).splitlines() if line.strip()][-1:]
    said = "".join(last).replace(os.environ.get("WANDB_API_KEY") or "\n", "…")
    if ended.returncode == 2:
        raise InputError(said)
    if ended.returncode:
        raise WandbError(said or f"exit code {ended.returncode}")
    return Filled.model_validate_json(said)
