"""Mirror a job's output folder to the store, so that whoever dies, the store knows.

A checkpoint's blob goes before its manifest, and a manifest is deleted before its blob: at any
moment a manifest in the store means that its blob is there too.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from infra.integrity import hashes_to
from infra.protocol import run_key
from infra.stores import Store

_MANIFEST = "manifest.json"
_PROGRESS = "progress.json"  # travels inside the heartbeat
_CHECKPOINTS = "checkpoints"
_WANDB = "wandb/"
_SAMPLES = "samples"
_METRICS = "metrics.jsonl"
_UNKNOWN = (0, 0)  # the stamp of no file


class Mirror:
    """One-way copy of `folder` to `runs/<run>/`. Files are written there by rename or append."""

    def __init__(self, store: Store, run_id: str, folder: Path) -> None:
        self._store = store
        self._run_id = run_id
        self._folder = folder
        self._sent: dict[str, tuple[int, int]] = {}  # name: modification time in ns, size

    def restore(self) -> None:
        """Bring back what an earlier agent of the same run had mirrored, where it verifies.

        What is here already, from an agent that ran on this computer, is newer and stays.
        """
        self._drop_damaged()
        here = {step.name for step in self._folder.glob(f"{_CHECKPOINTS}/*")}
        for top in (_CHECKPOINTS, _SAMPLES):
            for entry in self._store.list(run_key(self._run_id, top)):
                name = entry.key.removeprefix(run_key(self._run_id, ""))
                path = self._folder / name
                # It is in the store, so it goes from there when it goes from here.
                self._sent[name] = _UNKNOWN
                if not path.exists() and name.split("/")[1] not in here:
                    self._store.get_file(entry.key, path)
                    self._sent[name] = _stamp(path)
        metrics = self._folder / _METRICS
        if not metrics.exists() and (data := self._store.get(run_key(self._run_id, _METRICS))):
            metrics.write_bytes(data)
        self._drop_damaged()

    def _drop_damaged(self) -> None:
        for step in self._folder.glob(f"{_CHECKPOINTS}/*"):
            if not _whole(step):
                shutil.rmtree(step)

    def sync(self, *, last: bool = False, first: Callable[[], None] = lambda: None) -> None:
        """Send what is new, then forget what is gone. Raises Failure(STORE); call it again.

        What is here now is sent after `first` was done, which may send what has to be there before.
        With the `last`, what the store lost of it is sent again. W&B's own files grow all the time
        and serve only afterwards: they go with the last.
        """
        present: dict[str, Path] = {}
        for path in self._folder.rglob("*"):
            name = path.relative_to(self._folder).as_posix()
            hidden = any(part.startswith(".") for part in Path(name).parts)
            later = name.startswith(_WANDB) and not last
            plain = path.is_file() and not path.is_symlink()
            if plain and not hidden and not later and name != _PROGRESS:
                present[name] = path
        first()
        self._send(present)
        if last:
            self._distrust()
            self._send(present)
        gone = [n for n in self._sent.keys() - present.keys() if n.startswith(_CHECKPOINTS)]
        for name in sorted(gone, key=lambda n: not n.endswith(_MANIFEST)):
            self._store.delete(run_key(self._run_id, name))
            del self._sent[name]

    def _send(self, present: dict[str, Path]) -> None:
        for name in sorted(present, key=lambda n: (n.endswith(_MANIFEST), n)):
            try:
                stamp = _stamp(present[name])
                if self._sent.get(name) != stamp:
                    self._sent[name] = _UNKNOWN  # it may be there, though no answer says so
                    self._store.put_file(run_key(self._run_id, name), present[name])
                    self._sent[name] = stamp
            except FileNotFoundError:
                continue  # a checkpoint that was superseded while we looked

    def _distrust(self) -> None:
        """What the store has in another size than was sent counts as not sent."""
        sizes = {one.key: one.size for one in self._store.list(run_key(self._run_id))}
        for name, (_, size) in self._sent.items():
            if sizes.get(run_key(self._run_id, name)) != size:
                self._sent[name] = _UNKNOWN


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _whole(step: Path) -> bool:
    """Whether the one blob beside a manifest has the sha256 that the manifest says."""
    try:
        wanted = json.loads((step / _MANIFEST).read_bytes())["sha256"]
        (blob,) = (path for path in step.iterdir() if path.name != _MANIFEST)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return hashes_to(blob, str(wanted))
