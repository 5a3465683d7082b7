"""What training says while it runs: `metrics.jsonl`, `progress.json` and sample pictures.

`metrics.jsonl` holds everything that is ever logged, a JSON object a line with a `kind`; W&B, the
report and the terminal are fed from it, so a dead W&B server can neither stop nor slow training.
"""

import hashlib
import json
import os
import re
import time
from pathlib import Path
from typing import Any, Self

from model.images import Image, encode_jpeg, encode_mask


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never half."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)


_ORDER = ("start", "step", "epoch", "samples", "finish")  # of what is said of one step


def told_once(data: bytes) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`, each step's once, in their order.

    Where training went on from an earlier checkpoint, what it says then replaces what had been said
    of those steps. Lines that are damaged or cut short are left out.
    """
    told: list[tuple[tuple[int, int], dict[str, Any]]] = []
    for line in data.splitlines():
        try:
            record = json.loads(line)
            place = int(record["step"]), _ORDER.index(record["kind"])
        except (ValueError, KeyError, TypeError):
            continue
        while told and told[-1][0] >= place:
            told.pop()
        told.append((place, record))
    return [record for _, record in told]


class Journal:
    """Appends records to `out/metrics.jsonl`; a resumed run goes on where its checkpoint stood.

    `finished` says whether the records are those of a training that reached its end.
    """

    METRICS, PROGRESS = "metrics.jsonl", "progress.json"

    def __init__(self, out: Path, resume_at: int) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._out = out
        path = out / self.METRICS
        # Steps after the checkpoint are going to be done again, so what was said of them goes. A
        # line that is damaged, or was cut short by a kill, goes as well.
        kept, last = [], ""
        for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
            try:
                record = json.loads(line)
                step, kind = int(record["step"]), str(record["kind"])
            except (ValueError, KeyError, TypeError):
                continue
            if step > resume_at or resume_at == 0:
                break
            if line.endswith(b"\n"):
                kept.append(line)
                last = kind
        self.finished = last == "finish"
        write_atomically(path, b"".join(kept))
        self._file = path.open("a")
        self._next_progress = 0.0

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append one record and hand it to the operating system at once."""
        record = {"kind": kind, "step": step, "time": round(time.time(), 3), **values}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def progress(self, *, always: bool = False, **values: Any) -> None:
        """Replace `progress.json`, at most twice a second."""
        now = time.monotonic()
        if always or now >= self._next_progress:
            self._next_progress = now + 0.5
            write_atomically(self._out / self.PROGRESS, json.dumps(values).encode())

    def save_samples(self, pictures: dict[str, tuple[Image, Image, Image]], step: int) -> None:
        """Save photo, truth and prediction of each sample under `out/samples/`, and record them."""
        folder = self._out / "samples"
        folder.mkdir(exist_ok=True)
        files = []
        for name, (photo, truth, prediction) in pictures.items():
            stem = _file_name(name)
            for suffix, data in (
                ("photo.jpg", encode_jpeg(photo)),
                ("truth.png", encode_mask(truth)),
                (f"{step:08d}.png", encode_mask(prediction)),
            ):
                write_atomically(folder / f"{stem}.{suffix}", data)
            files.append(stem)
        self.write("samples", step, names=files)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Make the records durable; OSError where a full disk does not take them."""
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())


def _file_name(name: str) -> str:
    """A sample's id as a file's name: itself where it is plain, else its hash, so none clash."""
    if re.fullmatch(r"\w[\w.-]{0,99}", name, re.ASCII):
        return name
    return hashlib.sha256(name.encode()).hexdigest()[:32]
