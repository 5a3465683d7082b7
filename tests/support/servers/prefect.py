"""A real Prefect server and a process worker on loopback, ended by their process ids."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil
from filelock import FileLock

POOL = "voc-train"
_PREFECT = str(Path(sys.executable).with_name("prefect"))


class PrefectServer:
    """A server with its own home, and a pool unless `bare`; `start_worker()` adds a worker."""

    def __init__(self, folder: Path, *, bare: bool = False) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.api = f"http://127.0.0.1:{port}/api"
        self._port = str(port)
        self._folder = folder
        self._bare = bare
        self._processes: list[psutil.Popen] = []
        self.environment = os.environ | {
            "PREFECT_HOME": str(folder / "home"),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "DO_NOT_TRACK": "1",
            "NO_COLOR": "1",
        }

    def __enter__(self) -> Self:
        shutil.copytree(_new_database(), self._folder / "home")
        self._server = self._start_server()
        if not self._bare:
            self.run("work-pool", "create", POOL, "--type", "process")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in reversed(self._processes):
            _end(process)

    def restart(self) -> None:
        """Kill the server, and start another on the same database and port."""
        kill(self._server)
        self._server = self._start_server()

    def start_worker(
        self, environment: dict[str, str], queue: str = "default", pool: str = POOL
    ) -> psutil.Popen:
        """Start a worker whose flow runs see `environment` too, and wait until it is registered."""
        name = f"worker-{queue}" if queue != "default" else "worker"
        where = ("--pool", pool, "--work-queue", queue, "--name", name)
        worker = self._start(name, "worker", "start", *where, environment=environment)
        workers = f"work_pools/{pool}/workers/filter"
        self._await(lambda: name in [one["name"] for one in self.post(workers)], "the worker")
        return worker

    def set_up(self, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `voc-train setup` against this server."""
        program = "from pipeline.cli import main; main()"
        command = [sys.executable, "-c", program, "setup", *options]
        return self._run(command, check=check)

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run Prefect's own command line against this server, without prompts."""
        return self._run([_PREFECT, "--no-prompt", *arguments], check=check)

    def _run(self, command: list[str], *, check: bool) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=400,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}:\n{done.stdout}\n{done.stderr}")
        return done

    def schedule(self, deployment: str, *, active: bool) -> None:
        """Pause or resume the one schedule of a deployment."""
        found = self.get(f"deployments/name/{deployment}")
        (schedule,) = found["schedules"]
        self.patch(f"deployments/{found['id']}/schedules/{schedule['id']}", active=active)

    def post(self, path: str, **body: Any) -> Any:
        """Ask the server's API."""
        return self._ask("POST", path, json=body)

    def get(self, path: str) -> Any:
        """Read from the server's API."""
        return self._ask("GET", path)

    def patch(self, path: str, **body: Any) -> None:
        """Have something changed by the server's API."""
        self._ask("PATCH", path, json=body)

    def put(self, path: str, **body: Any) -> None:
        """Have something replaced by the server's API."""
        self._ask("PUT", path, json=body)

    def delete(self, path: str) -> None:
        """Have something deleted by the server's API."""
        self._ask("DELETE", path)

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        for _ in range(100):
            answer = httpx.request(method, f"{self.api}/{path}", timeout=30, **options)
            if answer.status_code != 503:  # its database is busy
                break
            time.sleep(0.1)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def send_events(self, *events: dict[str, Any]) -> None:
        """Tell the server that something happened."""
        self._ask("POST", "events", json=events)

    def wait(self, what: str, condition: "Any", seconds: float = 120) -> None:
        """Poll until `condition()` holds."""
        self._await(condition, what, seconds)

    def _start_server(self) -> psutil.Popen:
        where = ("--host", "127.0.0.1", "--port", self._port)
        server = self._start("server", "server", "start", *where)
        self._await(lambda: httpx.get(f"{self.api}/health").status_code == 200, "the server")
        return server

    def _start(
        self, name: str, *arguments: str, environment: dict[str, str] | None = None
    ) -> psutil.Popen:
        with (self._folder / f"{name}.log").open("ab") as log:
            process = psutil.Popen(
                [_PREFECT, *arguments],
                env=self.environment | (environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._processes.append(process)
        return process

    def _await(self, condition: "Any", what: str, seconds: float = 120) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                if condition():
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        logs = "\n".join(p.read_text()[-3000:] for p in sorted(self._folder.glob("*.log")))
        raise AssertionError(f"{what} did not come in {seconds:.0f} s:\n{logs}")


def _new_database() -> Path:
    """A home with nothing but that; one for all tests, since Prefect needs long to make it."""
    home = Path(os.environ["TESTS_HOME"], "new-prefect")
    with FileLock(f"{home}.lock"):
        if not home.exists():
            part = home.with_name("part-of-prefect")
            subprocess.run(
                [_PREFECT, "server", "database", "upgrade", "-y"],
                env=os.environ | {"PREFECT_HOME": str(part)},
                check=True,
                capture_output=True,
                timeout=400,
            )
            part.rename(home)
    return home


def kill(process: psutil.Process) -> None:
    """SIGKILL, and wait until it is gone; its children stay."""
    process.kill()
    process.wait(10)


def _end(process: psutil.Popen) -> None:
    """End a process and all that it started."""
    if not process.is_running():
        return
    everybody = [*process.children(recursive=True), process]
    for one in everybody:
        one.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(everybody, timeout=10)
    for one in alive:
        one.kill()
    psutil.wait_procs(alive, timeout=10)
