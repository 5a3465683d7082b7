"""Signals that end a run, and words that must not steer a terminal."""

import signal
import subprocess
import sys
from functools import partial

import pytest

from pipeline.cli import _Interrupts
from pipeline.console import harmless


def test_signals_in_quick_succession_count_as_one() -> None:
    """The second must not come between the first and the tear-down that it begins."""
    interrupts = _Interrupts()
    with pytest.raises(KeyboardInterrupt):
        interrupts(signal.SIGINT, None)
    interrupts(signal.SIGTERM, None)
    interrupts(signal.SIGHUP, None)


def test_a_later_one_counts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.cli._SUCCESSION", 0.0)
    interrupts = _Interrupts()
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            interrupts(signal.SIGINT, None)


def test_a_machines_words_cannot_repaint_the_screen() -> None:
    words = "epoch 1\tloss 0.5\n\x1b]0;title\x07\x1b[2J gone\r\x9b2J é"
    shown = harmless(words)
    assert "epoch 1\tloss 0.5\n" in shown
    assert "é" in shown
    assert not set(shown) & set("\x1b\x07\r\x9b")


def test_what_nohup_ignores_stays_ignored() -> None:
    """Whoever starts a run with nohup wants it to outlive the terminal."""
    program = (
        "import signal, sys\n"
        "sys.argv[1:] = ['recipes']\n"
        "from pipeline.cli import main\n"
        "try: main()\n"
        "finally: print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)\n"
    )
    for wish, ignored in ((signal.SIG_DFL, "False"), (signal.SIG_IGN, "True")):
        done = subprocess.run(
            [sys.executable, "-c", program],
            preexec_fn=partial(signal.signal, signal.SIGHUP, wish),
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        assert done.stdout.splitlines()[-1] == ignored
