"""Why a training failed: one cause, one sentence, left where whoever started it finds them."""

import json
import re
import sys
import traceback
from contextlib import suppress
from pathlib import Path

import torch

from model.device import is_out_of_memory
from model.errors import InputError, TrainingError, disk_problem
from model.journal import Journal, write_atomically
from model.recipe import Recipe

_FAILURE, _TRACEBACK = "failure.json", "traceback.txt"  # in `out`: why the last attempt failed
_NO_NORM = "Expected more than 1 value per channel"  # batch norm, of a map of 1x1
# What a GPU or its driver says, unless the net made the mistake (an index beyond a table).
_DRIVER = re.compile(
    r"CUDA error(?!: (out of memory|device-side assert|an? illegal|misaligned|invalid))"
    r"|CUDA driver (initialization failed|error|version is insufficient)|no CUDA-capable device"
    r"|No CUDA GPUs are available|Found no NVIDIA driver|NVIDIA driver on your system is too old"
)
_NO_LOADER = re.compile(r"DataLoader worker \(pid\(?s?\)? ?[\d, ]+\) (?P<end>[^\n]*)")


def forget(job: Path) -> None:
    """Remove what an earlier attempt left."""
    for earlier in (_FAILURE, _TRACEBACK):
        (job / "out" / earlier).unlink(missing_ok=True)


def were_left(job: Path) -> bool:
    """Whether somebody has said why it failed."""
    return (job / "out" / _FAILURE).exists()


def leave(job: Path, error: Exception) -> int:
    """Say why `job` failed, there and on stderr; returns the exit code, 2 for wrong input."""
    cause, message = explain(job, error)
    with suppress(OSError):  # as far as the disk allows
        if job.is_dir():
            (job / "out").mkdir(exist_ok=True)
            said = json.dumps({"cause": cause, "message": message}).encode()
            # Of several ranks it is the first one's word; who was alone has forgotten an earlier.
            with (job / "out" / _FAILURE).open("xb") as file:
                file.write(said)
    with suppress(OSError):  # what we say may be kept on that disk as well
        print(message, file=sys.stderr, flush=True)
    return 2 if cause == "BAD_INPUT" else 1


def explain(job: Path, error: Exception) -> tuple[str, str]:
    """The cause, and the sentence with the cure."""
    match error:
        case InputError():
            return "BAD_INPUT", str(error)
        case TrainingError():
            return error.cause, str(error)
        case _ if is_out_of_memory(error):
            return "OUT_OF_MEMORY", _too_large(job)
        case RuntimeError() | AssertionError() if _DRIVER.search(str(error)):
            return "DRIVER", (
                f"The GPU or its driver failed ({_first_line(error)}): start again, on another "
                "machine if it happens twice."
            )
        case ValueError() if _NO_NORM in str(error):
            return "BAD_INPUT", (
                "A single photo is so small that the net shrinks it to 1x1, which batch norm "
                "cannot train on; use a larger batch (--set batch_size=2), or --set fit=crop."
            )
        case RuntimeError() if ended := _NO_LOADER.search(str(error)):
            return _loader_died(ended["end"])
        case ConnectionError() | EOFError():  # a pipe from a loader process ended
            return _loader_died("exited unexpectedly")
        case OSError() if said := disk_problem(error, job / "out"):
            # The record of how far it came leaves its room to the words on why it ended.
            with suppress(OSError):
                (job / "out" / Journal.PROGRESS).unlink()
            return "STORE", said
        case _:
            return "INTERNAL", _unforeseen(job, error)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(". ")


def _too_large(job: Path) -> str:
    """What to do about a batch that does not fit."""
    recipe = Recipe.model_validate_json((job / "recipe.json").read_bytes())
    batch, parts = recipe.batch_size, recipe.accumulate
    said = f"The memory is too small for {batch} images of {recipe.image_size} pixels"
    resident = torch.cuda.is_available() or recipe.augment_on == "device"
    if resident and recipe.augment_on != "loader":
        said += " beside all photos of the dataset (--set augment_on=loader leaves these out)"
    if batch > parts:
        return (
            f"{said}, {-(-batch // parts)} at a time: compute a step in more parts "
            f"(--set accumulate={2 * parts}), take fewer (--set batch_size={max(1, batch // 2)}), "
            "or a smaller --set image_size=…."
        )
    return f"{said}, one at a time: take a smaller --set image_size=… or a narrower net."


def _loader_died(end: str) -> tuple[str, str]:
    if "Bus error" in end:
        return "OUT_OF_MEMORY", (
            "A loader process ran out of shared memory; give the container more of it "
            "(--shm-size), or use --workers 0."
        )
    if "Killed" in end or end.startswith("exited unexpectedly"):  # who notices first says it so
        return "OUT_OF_MEMORY", (
            "A loader process was killed, as the system does when its memory is full; use fewer "
            "(--workers 1), or smaller photos (--max-side)."
        )
    return "INTERNAL", f"A loader process {end.rstrip('. ')}; run again with --workers 0."


def _unforeseen(job: Path, error: Exception) -> str:
    """Keep the traceback with what the run leaves, else in the log; returns one sentence."""
    (what,) = traceback.format_exception_only(error)[-1:]
    told = f"Training failed unexpectedly, {what.splitlines()[0].rstrip('.')}"
    said = "".join(traceback.format_exception(error))
    try:
        (job / "out").mkdir(exist_ok=True)
        write_atomically(job / "out" / _TRACEBACK, said.encode(errors="replace"))
    except OSError:
        print(said, file=sys.stderr, flush=True)
        return f"{told}; what is above says where."
    return f"{told}; {_TRACEBACK} beside {Journal.METRICS} says where."
