"""Every cause of a failure has its line in the README, and a test that brings it about."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.failure import Cause

_REPOSITORY = Path(__file__).parents[2]
_LINE = re.compile(r"^\| `([A-Z_]+)` \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


def test_each_has_one_line_that_says_what_it_means_and_what_to_do() -> None:
    readme = (_REPOSITORY / "README.md").read_text()
    table = readme.partition("## When something goes wrong\n")[2].partition("\n## ")[0]
    lines = _LINE.findall(table)
    assert sorted(name for name, _, _ in lines) == sorted(Cause)
    assert len({meaning for _, meaning, _ in lines}) == len(lines)


def _words(test: ast.AST) -> Iterator[str]:
    """What a test compares with: causes by name, and words that are whole strings."""
    for node in ast.walk(test):
        match node:
            case ast.Attribute(ast.Name("Cause"), name):
                yield name
            case ast.Constant(str(text)):
                yield text


@pytest.fixture(scope="module")
def brought_about() -> set[str]:
    """Every cause that a test outside of the pure decisions names."""
    found: set[str] = set()
    for path in (_REPOSITORY / "tests").rglob("test_*.py"):
        if path.name in (Path(__file__).name, "test_verdict.py", "test_failure.py"):
            continue
        for node in ast.parse(path.read_text()).body:
            found.update(_words(node))
    return found


@pytest.mark.parametrize("cause", Cause)
def test_each_is_brought_about_by_a_test(cause: Cause, brought_about: set[str]) -> None:
    assert cause in brought_about
