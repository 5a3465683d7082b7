"""The job as a process: without the agent's keys, in a folder and a process group of its own."""

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from infra.launch import GROUP
from infra.processes import end_group, end_with_parent, note_group

# Environment that the job must not see.
_KEYS = ("AWS_", "LINODE_", "PREFECT_", "VOC_TRAIN_NOTIFY")
_TAIL = 1 << 16  # bytes of a job's last words


class Job:
    """Runs `argv` in `folder`, appending what it prints to `log`; begins at once.

    A first word `python` means the interpreter that runs this. Raises OSError.
    """

    def __init__(
        self, argv: Sequence[str], folder: Path, log: Path, keys: Mapping[str, str]
    ) -> None:
        self._log = log
        with log.open("ab") as file:
            self._begins = file.tell()  # after what an earlier attempt said
            self._child = subprocess.Popen(
                [sys.executable, *argv[1:]] if argv[0] == "python" else [*argv],
                cwd=folder,
                env=_without_keys() | dict(keys),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        with contextlib.suppress(OSError):  # a full disk; the agent itself needs no note
            note_group(folder / GROUP, self._child.pid)

    def wait(self, poll: float, grace: float, must_stop: Callable[[], object]) -> int:
        """Its exit code (negative: a signal), when nothing of it runs any more.

        `must_stop` is asked every `poll` seconds; the job then gets SIGTERM, and SIGKILL `grace`
        seconds later.
        """
        kill_at = math.inf
        try:
            while True:
                try:
                    self._child.wait(poll)
                    break
                except subprocess.TimeoutExpired:
                    pass
                if must_stop() and kill_at == math.inf:
                    kill_at = time.monotonic() + grace
                    self._child.terminate()
                if time.monotonic() > kill_at:
                    break
        finally:
            end_group(self._child)
        return self._child.returncode

    def last_words(self) -> str:
        """The end of what it printed."""
        with self._log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(self._begins, end - _TAIL))
            return file.read().decode(errors="replace")


def was_told_to_stop(code: int) -> bool:
    """Whether a job that ended so had got SIGTERM, and perhaps obeyed it by itself."""
    return code in (-signal.SIGTERM, 128 + signal.SIGTERM)


def _without_keys() -> dict[str, str]:
    """This environment less every key; the job needs a folder and, if asked, W&B."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_KEYS)}
    nothing = {"AWS_SHARED_CREDENTIALS_FILE": os.devnull, "AWS_CONFIG_FILE": os.devnull}
    return kept | nothing | {"PYTHONUNBUFFERED": "1"}
