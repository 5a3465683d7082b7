"""The first three stages as a job for an agent, on a machine rented for them.

    python -m pipeline.prepare parameters.json

Works in the job's folder: `parameters.json` says what to prepare, the dataset goes straight into
the store that VOC_TRAIN_STORE names, and `out/prepared.json` says which one it is.
"""

import json
import os
import sys
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from infra.failure import Failure
from infra.stores import Store
from model.errors import InputError
from pipeline import preparation
from pipeline.parameters import Parameters
from pipeline.run import explained

_OUT = Path("out")
_EVERY = 0.5  # seconds between two writes of the progress


class Prepared(BaseModel):
    """What the job leaves in `out/prepared.json`."""

    model_config = ConfigDict(frozen=True)

    dataset: str  # its key
    sources: dict[str, str]  # archives: sha256 to where it came from


def prepare(parameters: Parameters, store: Store, spool: Path) -> Prepared:
    """From archives to a dataset in the store, telling how far it is in `out/progress.json`."""
    dataset, archives = preparation.prepare_dataset(
        parameters, store, spool, [_Told()], needed=preparation.TO_TRAIN
    )
    sources = {archive.sha256: archive.source for archive in archives}
    return Prepared(dataset=dataset.key, sources=sources)


class _Told:
    """Listens to the stages: a file for whoever watches, a line for the log."""

    def __init__(self) -> None:
        self._next = 0.0

    def began(self, run_id: str) -> None:
        """There is no run here, only a part of one."""

    def started(self, stage: str) -> None:
        print(f"{stage} …", flush=True)
        self._next = 0.0

    def advanced(self, stage: str, done: float, total: float | None, note: str) -> None:
        if total and time.monotonic() >= self._next:
            self._next = time.monotonic() + _EVERY
            said = {"stage": stage, "step": int(done), "total_steps": int(total)}
            _write("progress.json", json.dumps(said))

    def said(self, stage: str, line: str) -> None:
        print(f"  {line}", flush=True)

    def finished(self, stage: str, seconds: float, reused: bool, summary: str) -> None:
        print(f"{stage} {'reused' if reused else 'done'} in {seconds:.1f} s: {summary}", flush=True)

    def decided(self, run_id: str, said: str) -> None:
        """As `began`."""

    def ended(self, run_id: str, failure: str | None) -> None:
        """As `began`."""


def _write(name: str, text: str) -> None:
    part = _OUT / f".{name}"
    part.write_text(text)
    part.replace(_OUT / name)


def main() -> int:
    """Command line; 0 done, 1 failed, with `out/failure.json`."""
    _OUT.mkdir(exist_ok=True)
    try:
        parameters = Parameters.model_validate_json(Path(sys.argv[1]).read_bytes())
        store = Store.open(os.environ["VOC_TRAIN_STORE"])
        _write("prepared.json", prepare(parameters, store, Path("spool")).model_dump_json())
    except (Failure, InputError) as error:
        cause, message = explained(error)
        _write("failure.json", json.dumps({"cause": cause, "message": message}))
        print(f"{cause}: {message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
