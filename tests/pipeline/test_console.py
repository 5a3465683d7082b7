"""A run as a person sees it: bars on a terminal, plain lines elsewhere."""

import json
import os
import pty
import re
import subprocess
import sys
from importlib import metadata

import pytest

from model.recipe import Recipe
from model.recipes import RECIPES
from pipeline.console import Terminal

_COMMAND = [sys.executable, "-c", "from pipeline.cli import main; main()"]

_STORY = """
from pipeline.console import Terminal
with Terminal() as terminal:
    terminal.began("261121-4k2ra")
    terminal.started("extract")
    terminal.finished("extract", 0.1, True, "1 archive")
    terminal.started("train")
    terminal.advanced("train", 5, 10, "5/10  loss 0.50")
    terminal.said("train", "epoch 1/2  [bold]loss[/bold] 0.5" + 100 * "-")
    terminal.finished("train", 12.3, False, "12 s on this computer")
    terminal.started("fetch-checkpoint")
    terminal.advanced("fetch-checkpoint", 3, 10, "a note that fills the rest of the line " * 3)
    terminal.ended("261121-4k2ra", "STORE: The store is full.")
"""


@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminal_shows_bars(columns: int) -> None:
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(columns)}
    environment.pop("NO_COLOR", None)
    child = subprocess.Popen([sys.executable, "-c", _STORY], stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while piece := _read(ours):
        shown += piece
    assert child.wait(60) == 0
    text = shown.decode()
    assert "━" in text
    assert "100%" in text  # however little a stage that ended had said of how far it was
    assert "30%" in text
    assert "✓" in text
    assert "epoch 1/2  [bold]loss[/bold] 0.5" in text  # what training says is no markup
    assert "12 s on this computer" in text
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).splitlines()
    fetching = [line.rstrip() for line in plain if "fetch-checkpoint" in line][-1]
    # Nothing but the note gives way, and there is room at the end for a ^C.
    assert re.search(r"━{10,} +30% +0:00 a note that .*…$", fetching), fetching
    assert len(fetching) <= columns - 4
    assert "voc-train status 261121-4k2ra" in text


def test_without_a_terminal_there_are_plain_lines() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _STORY], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "run 261121-4k2ra",
        "extract …",
        "extract reused in 0.1 s: 1 archive",
        "train …",
        "  epoch 1/2  [bold]loss[/bold] 0.5" + 100 * "-",
        "train done in 12.3 s: 12 s on this computer",
        "fetch-checkpoint …",
        "`voc-train status 261121-4k2ra` shows how far it came, `voc-train resume 261121-4k2ra` "
        "goes on from there",
    ]


@pytest.mark.parametrize("rehearses", [False, True])
def test_what_it_says_to_type_works_as_it_stands(
    capsys: pytest.CaptureFixture[str], rehearses: bool
) -> None:
    terminal = Terminal()
    terminal.options = ("--store", "s3://photos/voc-train")
    terminal.rehearses = rehearses
    terminal.ended("261121-4k2ra", "STORE: it is away")
    said = capsys.readouterr().err
    assert "`voc-train status 261121-4k2ra --store s3://photos/voc-train` shows" in said
    assert ("resume 261121-4k2ra --store s3://photos/voc-train`" in said) != rehearses


@pytest.mark.parametrize("group", [[], ["run"]])
def test_without_a_command_there_is_help(group: list[str]) -> None:
    done = subprocess.run([*_COMMAND, *group], capture_output=True, text=True, timeout=60)
    asked = subprocess.run(
        [*_COMMAND, *group, "--help"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == asked.stdout
    assert "Commands:" in done.stdout


def test_it_says_its_version() -> None:
    done = subprocess.run([*_COMMAND, "--version"], capture_output=True, text=True, timeout=60)
    said = f"voc-train {metadata.version('voc-train')}\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")


def test_a_mistyped_command_is_told_the_nearest() -> None:
    done = subprocess.run([*_COMMAND, "run", "locl"], capture_output=True, text=True, timeout=60)
    said = "voc-train: No such command 'locl'. Did you mean 'local'? See --help.\n"
    assert (done.returncode, done.stderr) == (2, said)


def test_debug_shows_where_an_error_comes_from() -> None:
    command = [*_COMMAND, "run", "local"]
    plain = subprocess.run(command, capture_output=True, text=True, timeout=60)
    shown = subprocess.run([*command, "--debug"], capture_output=True, text=True, timeout=60)
    assert (plain.returncode, shown.returncode) == (2, 2)
    assert "Traceback" not in plain.stderr
    assert "Traceback" in shown.stderr
    assert shown.stderr.endswith(plain.stderr)


def test_recipes_are_an_object_by_name() -> None:
    command = [*_COMMAND, "recipes", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    (line,) = done.stdout.splitlines()
    shown = {name: Recipe.model_validate(recipe) for name, recipe in json.loads(line).items()}
    assert shown == RECIPES


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # how Linux says that the other side was closed
        return b""
