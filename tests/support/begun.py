"""Commands that are begun, heard until a certain word, and no longer there in the end."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import psutil

from commands import COMMAND

Begin = Callable[..., psutil.Popen]  # as in begin("epoch 1/", "run", "local", environment={…})


@contextmanager
def beginning() -> Iterator[Begin]:
    """Who begins commands, and returns when they have said all those words, in their order.

    Each leads a process group of its own; its standard error can be read on.
    """
    begun: list[psutil.Popen] = []

    def begin(
        words: str | tuple[str, ...], *arguments: str, environment: Mapping[str, str] | None = None
    ) -> psutil.Popen:
        process = psutil.Popen(
            [COMMAND, *arguments],
            env=os.environ | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # Where the tests run in the background, the shell had it ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        begun.append(process)
        said: list[str] = []
        for word in (words,) if isinstance(words, str) else words:
            for line in process.stderr:
                said.append(line)
                if word in line:
                    break
            else:
                raise AssertionError(f"{word!r} was not said:\n{''.join(said)}")
        return process

    yield begin
    for process in begun:
        if process.is_running():
            process.kill()
        process.wait()
