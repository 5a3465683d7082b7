"""What an offline run of W&B holds, read from its file."""

import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record


def offline_records(file: Path) -> Iterator[Record]:
    """An offline run's records: blocks of 32 KiB with chunks of (crc32, length, type), LevelDB's
    log format behind a header of 7 bytes."""
    data = file.read_bytes()
    assert data[:4] == b":W&B"
    position, record = 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        crc, length, kind = struct.unpack_from("<IHB", data, position)
        chunk = data[position + 7 : position + 7 + length]
        position += 7 + length
        assert zlib.crc32(bytes([kind]) + chunk) == crc
        record += chunk
        if kind in (1, 4):  # whole, or the last of several
            yield Record.FromString(record)
            record = b""


def offline_runs(job: Path) -> list[Path]:
    return sorted((job / "out" / "wandb").glob("offline-run-*/*.wandb"))


def history(records: Iterable[Record]) -> dict[int, dict[str, Any]]:
    """What was logged, by step."""
    steps: dict[int, dict[str, Any]] = {}
    for record in records:
        if record.WhichOneof("record_type") == "history":
            values: dict[str, Any] = {}
            for item in record.history.item:
                *outer, last = item.nested_key or [item.key]
                inside = values
                for key in outer:
                    inside = inside.setdefault(key, {})
                inside[last] = json.loads(item.value_json)
            steps.setdefault(values["_step"], {}).update(values)
    return steps
