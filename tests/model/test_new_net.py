"""A net is added by one file and one recipe: the example of the README, as it stands there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tiny import journal, write_dataset

_REPOSITORY = Path(__file__).parents[2]
_LIST = "_ALL = (\n"  # where the named recipes begin


def example() -> tuple[str, str, str]:
    """What the README shows: the new file's path, its text, and the recipe."""
    text = (_REPOSITORY / "README.md").read_text()
    section = text.partition("### A net of your own\n")[2].partition("\n### ")[0]
    net, recipe = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return net.partition("\n")[0].removeprefix("# "), net, recipe


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with a copy of `model`, to which a newcomer has added the example."""
    folder = tmp_path / "checkout"
    shutil.copytree(
        _REPOSITORY / "model", folder / "model", ignore=shutil.ignore_patterns("__pycache__")
    )
    path, net, recipe = example()
    assert not (folder / path).exists()
    (folder / path).write_text(net)
    recipes = folder / "model" / "recipes.py"
    before, here, after = recipes.read_text().partition(_LIST)
    recipes.write_text(f"{before}{here}{recipe.rstrip()},\n{after}")
    return folder


def python(package: Path, *arguments: object) -> str:
    """What Python prints in that folder."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=package,
        env={**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_trains_and_is_scored(package: Path, tmp_path: Path) -> None:
    job = tmp_path / "job"
    write_dataset(job / "dataset")
    small = {"width": 4, "epochs": 20, "batch_size": 4, "image_size": 16, "lr": 0.02}
    named = f"named('tiny-fcn').override({small})"
    recipe = python(
        package, "-c", f"from model.recipes import named; print({named}.model_dump_json())"
    )
    (job / "recipe.json").write_text(recipe)
    python(package, "-m", "model.train", job, "--workers", 0, "--threads", 1, "--device", "cpu")

    first, *_, last = epochs = journal(job, "epoch")
    assert last["train_loss"] < 0.7 * first["train_loss"]
    assert last["miou"] > 0.45  # all background is 0.2
    best = max(epochs, key=lambda epoch: epoch["miou"])
    checkpoint = job / "out" / "checkpoints" / f"{best['step']:08}" / "checkpoint.pt"
    said = python(
        *(package, "-m", "model.evaluate", checkpoint, job / "dataset"),
        *("--device", "cpu", "--json"),
    )
    assert json.loads(said)["miou"] == best["miou"]
