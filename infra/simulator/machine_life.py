"""A simulated machine from power on to power off."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO

from infra.simulator import sandbox, systemd
from infra.simulator.machine_disk import environment
from infra.simulator.machine_ssh import Door, program, wait_for_end

SCRIPT = "/root/StackScript"


class Life:
    """Begins at once, in a thread of its own, and lasts until `end`.

    The thread stays as long as the machine, because the kernel kills the sandbox when the thread
    that started it ends; so nothing is left when this whole process is killed.
    """

    def __init__(
        self,
        walls: sandbox.Walls,
        console: Path,
        *,
        open_door: Callable[[list[str]], Door],
        cloud_init: Callable[[], list[str]] | None,
        script: Mapping[str, str] | None,
    ) -> None:
        """`open_door` gets the command that goes inside; `cloud_init` returns what it has to say.

        `script` is what the StackScript has in its environment; None where none is to run.
        """
        self._walls = walls
        self._console = console
        self._open_door = open_door
        self._cloud_init = cloud_init
        self._script = script
        self._sandbox: subprocess.Popen[bytes] | None = None
        self._init = 0
        self._door: Door | None = None
        self._ending = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    @property
    def up(self) -> bool:
        """Whether it has booted so far that its sshd is asked, and has not ended."""
        return self._door is not None and not self._ending

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return not self._thread.is_alive()

    def end(self) -> None:
        """Kill everything inside and everything that came in; returns when none of it runs."""
        with self._lock:
            self._ending = True
            if self._sandbox:
                self._sandbox.kill()  # and the kernel the init, and with that all the rest
        self._thread.join()

    def unmount(self, name: str) -> None:
        """Tear off whatever inside is mounted from the folder of that name below `disks`."""
        if not self.up:
            return
        mounted = Path(f"/proc/{self._init}/mountinfo").read_text().splitlines()
        for fields in (line.split() for line in mounted):  # see proc_pid_mountinfo(5)
            source, point = fields[3:5]
            # The place where all volumes are seen stays; what was mounted from one of them goes.
            if f"/disks/{name}/" in f"{source}/":
                umount = [*self._enter(), "/usr/bin/umount", "--lazy", point]
                subprocess.run(umount, env={}, check=True)

    def _live(self) -> None:
        with self._console.open("ab", buffering=0) as console:
            try:
                self._start(console)
                if self._init:
                    self._boot(console)
                self._wait()
            finally:
                self._bury()

    def _start(self, console: IO[bytes]) -> None:
        with self._lock:
            if self._ending:
                return
            self._sandbox = subprocess.Popen(
                # Only this file: the interpreter must not import what lies beside it.
                [str(Path(sys.executable).resolve()), "-I", "-S", sandbox.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=console,
                env={},  # inside, everybody sees what the init has in its environment
                start_new_session=True,  # Ctrl-C in the terminal is the simulator's to answer
            )
        self._say(asdict(self._walls))
        assert self._sandbox.stdout
        self._init = int(self._sandbox.stdout.readline() or 0)

    def _boot(self, console: IO[bytes]) -> None:
        self._door = self._open_door(self._enter())
        if self._cloud_init:
            for line in self._cloud_init():
                console.write(f"cloud-init: {line}\n".encode())
        for command in systemd.enabled_services(Path(self._walls.folder)):
            self._say({"argv": command, "env": systemd.ENVIRONMENT})
        if self._script is not None:
            self._say({"argv": [SCRIPT], "env": environment(self._script)})

    def _say(self, what: object) -> None:
        assert self._sandbox
        assert self._sandbox.stdin
        with contextlib.suppress(BrokenPipeError):  # it has ended
            self._sandbox.stdin.write(json.dumps(what).encode() + b"\n")
            self._sandbox.stdin.flush()

    def _wait(self) -> None:
        if not self._init:
            return
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(self._init)
            try:
                wait_for_end(handle)
            finally:
                os.close(handle)

    def _bury(self) -> None:
        self._ending = True
        if self._sandbox:
            self._sandbox.kill()
            self._wait()
            self._sandbox.communicate()  # until the init has closed its output, too
        # Last: the dead inside are reaped by those who brought them in.
        if self._door:
            self._door.close()

    def _enter(self) -> list[str]:
        """The command that runs another one inside.

        In two steps: the namespace of processes belongs to the outer user namespace, which the
        sandbox's own process keeps open, everything else to the inner one.
        """
        assert self._sandbox
        nsenter = [str(program("nsenter")), "--user", "--preserve-credentials"]
        outer = [*nsenter, f"--target={self._sandbox.pid}", f"--pid=/proc/{self._init}/ns/pid"]
        inner = [*nsenter, f"--target={self._init}", "--mount", "--uts", "--ipc"]
        return [*outer, "--", *inner, "--"]
