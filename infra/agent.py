"""The agent: runs one job on the machine it stands on, and mirrors what the job makes to the store.

    python -m infra.agent --store URL --run RUN --job FOLDER

It needs nobody to finish: the controller may vanish, and the store may be away for a while. The
job sees one folder and gets none of the agent's keys. SIGTERM stops the job, which may write a
checkpoint first; the end of every story is `result.json`.
"""

import argparse
import contextlib
import fcntl
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType

from infra.failure import Cause, Failure
from infra.heartbeat import Pulse
from infra.launch import AGENT, GROUP
from infra.log import LogWriter
from infra.mirror import Mirror
from infra.processes import end_group, end_with_parent, note_group
from infra.protocol import JobSpec, Result, now, run_key
from infra.stores import Store, hashes_to

GRACE = 30.0  # seconds that a job has between SIGTERM and SIGKILL, to write a checkpoint
LAST_UPLOAD = 300.0  # seconds that the agent may take afterwards, to send it
UNSENT = "result.json"  # in the job's folder, when the store could not take it
_FAILURE = "failure.json"  # the job's own word on why it failed: cause, message
_AWAY = 600.0  # seconds that the last words may wait for a store that does not answer
# Seconds that a store may refuse, while the job runs and at its end: room and rights seldom come
# by themselves, a job without a store works for nothing, and a person waits for the reason.
_REFUSED, _REFUSED_LAST = 60.0, 10.0
_KEYS = ("AWS_", "LINODE_", "PREFECT_")  # environment that the job must not see


class Agent:
    """Runs one job from its spec to its result."""

    def __init__(
        self, store: Store, run_id: str, job: Path, poll: float, grace: float = GRACE
    ) -> None:
        self._store = store
        self._run_id = run_id
        self._job = job
        self._poll = poll
        self._grace = grace
        self._log = job / "log.txt"
        self._log_writer = LogWriter(store, run_id, self._log)
        self._mirror = Mirror(store, run_id, job / "out")
        self._pulse = Pulse(store, run_id, job / "out" / "progress.json", poll)
        self._stop: Failure | None = None
        self._started = now()
        self._begun = time.monotonic()

    def stop(self, *_signal: int | FrameType | None) -> None:
        """Ask the job to stop; it has `grace` seconds to leave a checkpoint."""
        self._stop = self._stop or Failure(
            Cause.CANCELLED, "Stopped on request; what was learned so far is in its checkpoint."
        )

    def run(self) -> Result:
        """Prepare, run, mirror, and write the result.

        Where the store cannot take it, the result is left in the job's folder and Failure raised.
        """
        with self._pulse:
            result = self._outcome()
            self._pulse.state = "finishing"
            try:
                return self._insist(result)
            except Failure as failure:
                self._leave_here(result, failure)
                raise

    def _outcome(self) -> Result:
        try:
            spec = self._store.read(run_key(self._run_id, "spec.json"), JobSpec)
            if spec is None:
                raise Failure(Cause.BAD_INPUT, f"There is no run {self._run_id} in the store.")
            self._prepare(spec)
            self._pulse.state = "running"
            return self._run_job(spec)
        except Failure as failure:
            return self._result(None, failure.cause, str(failure))
        except Exception as error:
            traceback.print_exc()
            return self._broken(error)

    def _prepare(self, spec: JobSpec) -> None:
        out = self._job / "out"
        out.mkdir(parents=True, exist_ok=True)
        (out / _FAILURE).unlink(missing_ok=True)  # an earlier attempt's
        self._mirror.restore()
        self._log_writer.go_on()
        for name, text in spec.files.items():
            path = self._job / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for wanted in spec.inputs:
            self._must_go_on(spec)
            path = self._job / wanted.path
            if not hashes_to(path, wanted.sha256):  # a reboot may have cost what was fetched before
                self._store.get_file(wanted.key, path, sha256=wanted.sha256, link=True)
        self._must_go_on(spec)

    def _must_go_on(self, spec: JobSpec) -> None:
        if self._stop is None and time.monotonic() > self._begun + spec.deadline_seconds:
            self._stop = _deadline()
        if self._stop:
            raise self._stop

    def _run_job(self, spec: JobSpec) -> Result:
        argv = [sys.executable, *spec.argv[1:]] if spec.argv[0] == "python" else [*spec.argv]
        deadline = self._begun + spec.deadline_seconds
        with self._log.open("wb") as log:
            child = subprocess.Popen(
                argv,
                cwd=self._job,
                env=_without_keys() | (self._keys() if spec.uses_store else {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        with contextlib.suppress(OSError):  # a full disk; the agent itself needs no note
            note_group(self._job / GROUP, child.pid)
        ended = threading.Event()
        # Apart from the job's supervision, which must not wait for a store that does not answer.
        reporter = threading.Thread(target=self._report_until, args=(ended,))
        reporter.start()
        kill_at = math.inf
        try:
            while True:
                try:
                    child.wait(self._poll)
                    break
                except subprocess.TimeoutExpired:
                    pass
                if self._stop is None and time.monotonic() > deadline:
                    self._stop = _deadline()
                if self._stop and kill_at == math.inf:
                    kill_at = time.monotonic() + self._grace
                    child.terminate()
                if time.monotonic() > kill_at:
                    break
        finally:
            end_group(child)
            ended.set()
            reporter.join()
        return self._judge(child.returncode)

    def _keys(self) -> dict[str, str]:
        keys = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        return keys | {"VOC_TRAIN_STORE": self._store.url}

    def _report_until(self, ended: threading.Event) -> None:
        welcome = time.monotonic()  # when the store last did not refuse
        while not ended.wait(self._poll):
            try:
                self._mirror_all()
                welcome = time.monotonic()
            except Failure as failure:
                _say(failure)  # training goes on; what is missing follows at the next look
                if not failure.permanent:
                    welcome = time.monotonic()
                elif time.monotonic() > welcome + _REFUSED:
                    self._stop = self._stop or failure  # it would train for nothing
            except Exception:
                traceback.print_exc()  # a broken mirror must not break the job

    def _judge(self, code: int) -> Result:
        """Whose fault it was: the job's own word counts first, then how it ended."""
        if code == 0:
            return self._result(0, None, "done")
        if self._stop:
            return self._result(code, self._stop.cause, str(self._stop))
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            said = json.loads((self._job / "out" / _FAILURE).read_bytes())
            return self._result(code, Cause(said["cause"]), said["message"])
        if code == -signal.SIGKILL:
            return self._result(
                code,
                Cause.OUT_OF_MEMORY,
                "The job was killed from outside, as Linux does when memory runs out: take a "
                "smaller --set batch_size or fewer workers.",
            )
        tail = self._log.read_text(errors="replace").strip().splitlines()[-1:]
        return self._result(
            code, Cause.USER_ERROR, f"The job ended with code {code}: {' '.join(tail)}"
        )

    def _result(self, code: int | None, cause: Cause | None, message: str) -> Result:
        return Result(
            exit_code=code, cause=cause, message=message, started=self._started, ended=now()
        )

    def _broken(self, error: Exception) -> Result:
        return self._result(
            None,
            Cause.INTERNAL,
            f"The agent failed ({type(error).__name__}: {error}); its own log says where. What the "
            "job had mirrored until then is in the store.",
        )

    def _mirror_all(self, *, last: bool = False) -> None:
        self._log_writer.send()
        self._mirror.sync(last=last)

    def _insist(self, result: Result) -> Result:
        """Bring the last words home even if the store is away for a while; returns them."""
        began = time.monotonic()
        while True:
            try:
                try:
                    self._mirror_all(last=True)
                except Failure:
                    raise
                except Exception as error:
                    traceback.print_exc()
                    result = self._broken(error)
                self._pulse.stop()  # the result is the last object
                self._pulse.beat()  # with the job's last word on how far it came
                self._store.write(run_key(self._run_id, "result.json"), result)
                return result
            except Failure as failure:
                _say(failure)
                patience = _REFUSED_LAST if failure.permanent else _AWAY
                waited_for = self._stop is not None and self._stop.cause is Cause.CANCELLED
                if waited_for or time.monotonic() > began + patience:
                    raise
                time.sleep(5)

    def _leave_here(self, result: Result, failure: Failure) -> None:
        """Say on this computer what the store could not be told."""
        said = f"{failure} What the job made until then is in {self._job / 'out'}."
        unsent = self._result(result.exit_code, failure.cause, said)
        with contextlib.suppress(OSError):  # this disk may be full as well
            self._job.mkdir(parents=True, exist_ok=True)
            (self._job / UNSENT).write_text(unsent.model_dump_json())


def _deadline() -> Failure:
    return Failure(
        Cause.DEADLINE,
        "The time limit or the budget was reached; give more with --limit train_hours=… or, where "
        "a machine is rented, with --budget.",
    )


def _without_keys() -> dict[str, str]:
    """This environment less every key; the job needs a folder and, if asked, W&B."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_KEYS)}
    nothing = {"AWS_SHARED_CREDENTIALS_FILE": os.devnull, "AWS_CONFIG_FILE": os.devnull}
    return kept | nothing | {"PYTHONUNBUFFERED": "1"}


@contextmanager
def _alone(job: Path) -> Iterator[None]:
    """Let no other agent work in this folder; Failure(BAD_INPUT) where one does."""
    try:
        job.mkdir(parents=True, exist_ok=True)
        note = (job / AGENT).open("a")
    except OSError:  # nothing can be written here, which the result will say
        yield
        return
    with note:
        try:
            fcntl.flock(note, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure(
                Cause.BAD_INPUT,
                f"An agent works in {job} already; wait for it, or stop it first.",
                permanent=True,
            ) from None
        with contextlib.suppress(OSError):  # a full disk; the lock holds all the same
            note_group(job / AGENT, os.getpid())
        yield


def _take_secrets(file: Path) -> None:
    """Read keys into this process's environment, where /proc shows none, and remove the file."""
    try:
        said = file.read_bytes()
        file.unlink()
        secrets = json.loads(said)
        os.environ.update(secrets)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        # Not what it says in full: that may quote the keys.
        raise Failure(
            Cause.BAD_INPUT,
            f"{file} is not a readable JSON object of environment variables "
            f"({type(error).__name__}).",
        ) from None


def _say(failure: Failure) -> None:
    stamp = datetime.now().astimezone().isoformat(timespec="seconds")
    print(f"{stamp} {failure.cause} {failure}", file=sys.stderr, flush=True)


def main() -> int:
    """Command line; 0 when the result says done, 1 otherwise."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.agent",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--store", required=True, help="file:///folder or s3://bucket/prefix")
    parser.add_argument("--run", required=True, help="the run's id; its spec must be in the store")
    parser.add_argument("--job", required=True, type=Path, help="the job's folder; is made")
    parser.add_argument("--poll", type=float, default=1.0, help="seconds between two looks")
    parser.add_argument(
        "--grace", type=float, default=GRACE, help="seconds for the job between stop and kill"
    )
    parser.add_argument(
        "--secrets", type=Path, help="JSON object of environment variables; is removed when read"
    )
    args = parser.parse_args()
    job = args.job.absolute()
    try:
        if args.secrets:
            _take_secrets(args.secrets)
        store = Store.open(args.store)
        with _alone(job):
            agent = Agent(store, args.run, job, args.poll, args.grace)
            signal.signal(signal.SIGTERM, agent.stop)
            signal.signal(signal.SIGINT, agent.stop)
            return 0 if agent.run().cause is None else 1
    except Failure as failure:
        _say(failure)
        return 1


if __name__ == "__main__":
    sys.exit(main())
