"""The real trainer under the real agent: what one leaves in `out/` is what the other looks for."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import model
from agents import log_of, run_agent
from infra.failure import Cause
from infra.protocol import Heartbeat, JobSpec, Result
from infra.stores import Store
from last_words import WORDS
from model import checkpoint
from model.failures import explain
from model.manifest import Manifest
from pipeline.dataset import dataset_prefix
from pipeline.stages.train import job_for
from tiny import RECIPE, write_dataset


@pytest.fixture
def dataset(store: Store, tmp_path: Path) -> Manifest:
    """Tiny's dataset, in the store."""
    folder = tmp_path / "built"
    manifest = write_dataset(folder)
    for path in folder.rglob("*.*"):
        name = path.relative_to(folder).as_posix()
        store.put_file(f"{dataset_prefix(manifest.key)}/{name}", path)
    return manifest


def spec_of(store: Store, dataset: Manifest, device: str = "cpu", **settings: Any) -> JobSpec:
    """What the controller asks for."""
    return job_for(
        *("r", RECIPE.override(settings), dataset, store),
        device=device,
        workers=0,
        wandb="disabled",
        deadline_seconds=600,
    )


def run(store: Store, spec: JobSpec, job: Path) -> Result:
    store.write("runs/r/spec.json", spec)
    return run_agent(store, job)


def records(store: Store, kind: str) -> list[dict[str, Any]]:
    lines = (store.get("runs/r/metrics.jsonl") or b"").splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def test_a_finished_run_leaves_all_of_it_in_the_store(
    store: Store, dataset: Manifest, tmp_path: Path
) -> None:
    result = run(store, spec_of(store, dataset), tmp_path / "job")
    assert (result.exit_code, result.cause) == (0, None), log_of(store)

    epochs = records(store, "epoch")
    assert [record["step"] for record in epochs] == [3, 6]
    assert len(records(store, "finish")) == 1
    best = max(epochs, key=lambda record: (record["miou"], record["step"]))
    kept = {int(step): step for step in store.folders("runs/r/checkpoints")}
    assert kept.keys() == {best["step"], 6}
    for step, name in kept.items():
        manifest = checkpoint.verified(tmp_path / "store" / "runs/r/checkpoints" / name)
        assert manifest
        assert (manifest.run_id, manifest.step) == ("r", step)

    assert [record["step"] for record in records(store, "samples")] == [3, 6]
    for record in records(store, "samples"):
        assert len(record["names"]) == 4
        for name in record["names"]:
            for suffix in ("photo.jpg", "truth.png", f"{record['step']:08d}.png"):
                assert store.size(f"runs/r/samples/{name}.{suffix}")

    heartbeat = store.read("runs/r/heartbeat.json", Heartbeat)
    assert heartbeat
    assert (heartbeat.progress["step"], heartbeat.progress["total_steps"]) == (6, 6)


def test_a_checkpoint_that_only_lacked_its_name_when_all_was_killed_counts(
    store: Store, dataset: Manifest, tmp_path: Path
) -> None:
    spec = spec_of(store, dataset)
    assert run(store, spec, tmp_path / "job").cause is None
    here = tmp_path / "job" / "out" / "checkpoints"
    (here / "00000006").rename(here / ".00000006.part")
    for entry in list(store.list("runs/r/checkpoints/00000006")):
        store.delete(entry.key)

    assert run(store, spec, tmp_path / "job").cause is None
    assert checkpoint.verified(tmp_path / "store" / "runs/r/checkpoints/00000006")
    assert not list(here.glob(".*"))
    assert log_of(store).count(b"epoch 2/2") == 1  # it was not trained again


# A machine without a GPU has no memory of a GPU's to run out of, so the step says what torch would.
_OUT_OF_MEMORY = """
import sys
import torch
from model import train
def step(*_):
    raise torch.OutOfMemoryError("CUDA out of memory.")
train.training_step = step
sys.argv = ["model.train", "."]
sys.exit(train.main())
"""


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (Cause.BAD_INPUT, "'nonsense' cannot be used here"),
        (Cause.USER_ERROR, "--set lr="),
        (Cause.OUT_OF_MEMORY, "--set batch_size="),
    ],
    ids=str,
)
def test_the_trainers_word_on_why_it_failed_arrives(
    store: Store, dataset: Manifest, tmp_path: Path, cause: Cause, said: str
) -> None:
    match cause:
        case Cause.BAD_INPUT:
            spec = spec_of(store, dataset, device="nonsense")
        case Cause.USER_ERROR:  # a decay of 1 at such a rate makes the weights grow tenfold a step
            wild = {"lr": 10, "weight_decay": 1, "epochs": 60}
            spec = spec_of(store, dataset, **wild)
        case _:
            argv = ("python", "-c", _OUT_OF_MEMORY)
            spec = spec_of(store, dataset).model_copy(update={"argv": argv})
    result = run(store, spec, tmp_path / "job")
    assert result.cause is cause, log_of(store)
    assert said in result.message


def test_what_nobody_foresaw_keeps_its_traceback_with_the_run(
    store: Store, dataset: Manifest, tmp_path: Path
) -> None:
    code = _OUT_OF_MEMORY.replace("torch.OutOfMemoryError", "ZeroDivisionError")
    spec = spec_of(store, dataset).model_copy(update={"argv": ("python", "-c", code)})
    result = run(store, spec, tmp_path / "job")
    assert result.cause is Cause.INTERNAL, log_of(store)
    assert log_of(store).decode().splitlines()[-1] == result.message
    assert b"in step" in (store.get("runs/r/traceback.txt") or b"")


def causes_in(source: str) -> Iterator[str]:
    """The causes that a module names: `TrainingError("…", …)` and `return "…", …`."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Name("TrainingError"), args=[ast.Constant(str(cause)), *_]):
                yield cause
            case ast.Return(ast.Tuple([ast.Constant(str(cause)), _])) if cause.isupper():
                yield cause


def test_every_cause_that_the_trainer_names_is_one_of_the_enumeration() -> None:
    (room,) = model.__path__
    named = {cause for path in Path(room).rglob("*.py") for cause in causes_in(path.read_text())}
    assert named >= {"BAD_INPUT", "USER_ERROR", "OUT_OF_MEMORY", "STORE", "INTERNAL"}
    assert named <= set(Cause)


@pytest.mark.parametrize("words", WORDS)
def test_the_trainer_says_of_a_gpu_what_the_agent_would(words: str, tmp_path: Path) -> None:
    """What is its own mistake is nobody else's; of any other job's the agent blames the user."""
    (tmp_path / "recipe.json").write_text(RECIPE.model_dump_json())
    cause, message = explain(tmp_path, RuntimeError(words))
    assert cause == (WORDS[words] or "INTERNAL")
    assert Cause(cause)
    if cause == "DRIVER":
        assert words.splitlines()[0] in message
