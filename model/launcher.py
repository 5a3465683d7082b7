"""Train with several processes on this computer: starts them, and ends them together.

It tells each what torchrun would, so that either may start a rank, but a job that somebody else has
to be able to end needs more than torchrun gives: here all stay in one process group, so that who
kills that group kills all; a signal to stop is for the ranks and not for their loader processes,
which the last steps before a checkpoint need; the exit code is the ranks' own; and nothing listens
beyond this computer.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from torch import distributed as dist

from model import failures
from model.errors import TrainingError

STOPPED = 143  # the exit code of a run that was asked to stop and can go on: 128 + SIGTERM
# Seconds that the others have when one has failed, to see it and to finish a checkpoint: one that
# waits on a GPU for whoever is gone never sees it.
_GRACE = 10.0
_LOOPBACK = "127.0.0.1"


def one_a_gpu(device: str) -> int:
    """How many processes `device` asks for where nobody says: one for each GPU, else one."""
    return max(1, torch.cuda.device_count()) if device in ("auto", "cuda") else 1


@contextmanager
def meeting_point() -> Iterator[int]:
    """Where ranks find each other, until the end of the block: a port of this computer's own.

    One that rank 0 made, as by default, would listen to the whole network, and end with it.
    """
    listening = socket.create_server((_LOOPBACK, 0))
    port: int = listening.getsockname()[1]
    store = dist.TCPStore(  # type: ignore[attr-defined]  # which is public all the same
        *(_LOOPBACK, port),
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listening.detach(),
    )
    yield port
    del store


def environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    """What torchrun tells a rank of itself, and to stay on this computer."""
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": _LOOPBACK,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # that of `meeting_point`
        "TORCHELASTIC_RESTART_COUNT": "0",
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": loopback,
    }


def launch(job: Path, ranks: int, arguments: Sequence[str]) -> int:
    """Run `python -m model.train` with `arguments` in that many processes; the job's exit code.

    SIGTERM and Ctrl-C are handed on. When one fails, the others are ended as well, and `job` has
    the first one's word on why. Where one was killed and there is no word, the code is
    128 + the signal.
    """
    group = _Group()
    before = {number: signal.signal(number, group.stop) for number in _STOP}
    try:
        group.run(ranks, [sys.executable, "-m", "model.train", *arguments])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return group.verdict(job)


_STOP = (signal.SIGTERM, signal.SIGINT)


class _Group:
    """The ranks' processes."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stopping = False
        self._killed: set[int] = set()  # the ranks that had to be

    def stop(self, *_: int | FrameType | None) -> None:
        """Ask all to stop, with a checkpoint."""
        self._stopping = True
        for process in self._processes:
            process.terminate()

    def run(self, ranks: int, command: Sequence[str]) -> None:
        """Until none runs any more."""
        with meeting_point() as port, ThreadPoolExecutor(ranks) as pool:
            try:
                for rank in range(ranks):
                    env = os.environ | environment(rank, ranks, port)
                    self._processes.append(subprocess.Popen(command, env=env))
                if self._stopping:  # asked before all were there
                    self.stop()
                self._watch({pool.submit(process.wait) for process in self._processes})
            finally:
                for process in self._processes:
                    process.kill()

    def _watch(self, running: "set[Future[int]]") -> None:
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            if any(one.result() not in (0, STOPPED) for one in done):
                break
        self.stop()
        wait(running, _GRACE)
        for rank, process in enumerate(self._processes):
            if process.poll() is None:
                self._killed.add(rank)
                process.kill()

    def verdict(self, job: Path) -> int:
        """The exit code of all; leaves a cause where no rank has said one."""
        codes = [process.returncode for process in self._processes]
        if not any(codes):
            return 0
        if {*codes} <= {0, STOPPED, *(-number for number in _STOP)}:
            return STOPPED
        if failures.were_left(job):
            return 2 if 2 in codes else 1
        for rank, code in enumerate(codes):
            if code < 0 and -code not in _STOP and rank not in self._killed:
                name = signal.Signals(-code).name
                print(f"Process {rank} of the training was ended by {name}.", file=sys.stderr)
                return 128 - code
        said = "A process of the training ended without a word of why; the log may have more."
        return failures.leave(job, TrainingError("INTERNAL", said))
