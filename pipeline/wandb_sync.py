"""Weights & Biases afterwards: one W&B run, filled from what the store has of a run.

Whatever the run went through, its journal in the store is the whole story, told once. So W&B is
given that, and what it has of live feeding and of offline folders need not be put together.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from infra.failure import Cause, Failure
from infra.protocol import run_key
from infra.stores import Store
from model.journal import Journal
from model.wandb_process import WANDB_PATIENCE, Filled, Mode, WandbError, filled_at_wandb
from pipeline.champion import History
from pipeline.parameters import home
from pipeline.run import explained
from pipeline.run_record import recorded_run
from pipeline.stages.fetch_checkpoint import fetch_checkpoint

if TYPE_CHECKING:
    from model.checkpoint import CheckpointManifest

_REPORT = "report.html"


class Synced(Filled):
    """What W&B has now of a run; `command` is what delivers an offline folder."""

    run_id: str
    online: bool
    checkpoint: bool  # whether it went there, too
    champion: bool  # whether it has that alias
    command: str | None


def sync_to_wandb(
    store: Store, run_id: str, *, online: bool, patience: float = WANDB_PATIENCE
) -> Synced:
    """Fill the W&B run of a run in the store; with what it has already, nothing is doubled.

    The champion's checkpoint gets the alias `champion`. `patience` in seconds is W&B's. Raises
    Failure(BAD_INPUT) where there is no key, or a wrong one, or nothing to tell of, and
    Failure(PROVIDER) where W&B does not take it.
    """
    return _synced(store, run_id, "online" if online else "offline", patience)


def _synced(store: Store, run_id: str, mode: Mode, patience: float = WANDB_PATIENCE) -> Synced:
    if mode == "online":
        _must_have_key()
    with _job(run_id, mode) as job:
        manifest = _gather(store, run_id, job)
        champion = History.load(store).champion
        crowned = bool(manifest and champion and champion.checkpoint.sha256 == manifest.sha256)
        try:
            filled = filled_at_wandb(job, mode=mode, champion=crowned, patience=patience)
        except WandbError as error:
            raise Failure(
                Cause.PROVIDER,
                f"W&B did not take run {run_id} ({str(error).rstrip('.')}); try again later.",
            ) from None
    folders = Path(filled.place).parent / "offline-run-*"  # those delivered already are left out
    return Synced(
        **filled.model_dump(),
        run_id=run_id,
        online=mode == "online",
        checkpoint=manifest is not None,
        champion=crowned,
        command=None if mode == "online" else f"wandb sync {folders}",
    )


def show_champion(store: Store, say: Callable[[str], None]) -> None:
    """Have W&B know who is champion now, after it has changed; says how that went, raises nothing.

    As the champion's own run had it: online, in an offline folder that says only this, or not at
    all.
    """
    run_id = ""
    try:
        if (champion := History.load(store).champion) is None:
            return
        run_id = champion.checkpoint.run_id
        mode = recorded_run(store, run_id).parameters.get("wandb", "auto")
        if mode == "disabled":
            return
        key = bool(os.environ.get("WANDB_API_KEY"))
        online = mode == "online" or (mode == "auto" and key)
        synced = _synced(store, run_id, "online" if online else "alias")
    except Exception as error:
        why = explained(error)[1]
        say(f"W&B does not know of the new champion: {why} Later: `voc-train wandb-sync {run_id}`.")
        return
    if synced.command:
        say(f"for W&B the champion waits in a folder; deliver it with: {synced.command}")
    else:
        say(f"W&B knows the champion: {synced.place}")


def _must_have_key() -> None:
    from infra.doctor import wandb_key

    if not os.environ.get("WANDB_API_KEY"):
        raise Failure(
            Cause.BAD_INPUT,
            "WANDB_API_KEY is not set: export your key, or give --offline for a folder that `wandb "
            "sync` takes.",
        )
    seen = wandb_key(ask=True)
    if not seen.ok:
        raise Failure(Cause.BAD_INPUT, f"{seen.said} {seen.cure}")


@contextmanager
def _job(run_id: str, mode: Mode) -> Iterator[Path]:
    """A folder as training has one; what `wandb sync` is to take later is kept, and added to."""
    folder = home() / "wandb"
    folder.mkdir(parents=True, exist_ok=True)
    if mode == "online":
        with tempfile.TemporaryDirectory(dir=folder, prefix=".sync-") as passing:
            yield Path(passing)
        return
    job = folder / (run_id if mode == "offline" else f"{run_id}-champion")
    job.mkdir(exist_ok=True)
    yield job


def _gather(store: Store, run_id: str, job: Path) -> "CheckpointManifest | None":
    """What W&B is filled from, as training left it in `job/out`; the checkpoint's manifest."""
    out = job / "out"
    out.mkdir(exist_ok=True)
    metrics = store.get(run_key(run_id, Journal.METRICS))
    if metrics is None:
        raise Failure(
            Cause.BAD_INPUT,
            f"Run {run_id} has logged nothing in {store.url}; see `voc-train status`.",
        )
    (out / Journal.METRICS).write_bytes(metrics)
    prefix = run_key(run_id, "")
    for entry in store.list(run_key(run_id, "samples")):
        store.get_file(entry.key, out / entry.key.removeprefix(prefix))
    if store.size(run_key(run_id, _REPORT)) is not None:
        store.get_file(run_key(run_id, _REPORT), out / _REPORT)
    try:
        manifest = fetch_checkpoint(run_id, store, job / "fetched")
    except Failure as failure:
        if failure.cause not in (Cause.BAD_INPUT, Cause.CORRUPT):
            raise
        return None  # before the first one, or after the last that was good: curves all the same
    kept = out / "checkpoints" / f"{manifest.step:08d}"
    shutil.rmtree(kept, ignore_errors=True)
    kept.parent.mkdir(exist_ok=True)
    (job / "fetched").rename(kept)
    return manifest
