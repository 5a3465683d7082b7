"""The agent: runs one job on the machine it stands on, and mirrors what the job makes to the store.

    python -m infra.agent --store URL --run RUN --job FOLDER

It needs nobody to finish: the controller may vanish, and the store may be away for a while. The
job sees one folder and gets none of the agent's keys. SIGTERM stops the job, which may write a
checkpoint first; the end of every story is `result.json`. An agent that is started again in the
same folder goes on from the newest checkpoint, in the time that was left.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import nullcontext
from datetime import datetime
from functools import partial
from pathlib import Path
from types import FrameType

from infra.deadline import Deadline, seconds_noted
from infra.evidence import Witness
from infra.failure import Cause, Failure
from infra.heartbeat import Pulse
from infra.integrity import hashes_to
from infra.job import Job, was_told_to_stop
from infra.launch import alone, take_secrets
from infra.log import LogWriter
from infra.mirror import Mirror
from infra.on_demand import Supplier
from infra.protocol import JobSpec, Result, now, run_key
from infra.restart import GoingDown, restarted_at_boot
from infra.stores import Store
from infra.verdict import gpu_failed, verdict

GRACE = 30.0  # seconds that a job has between SIGTERM and SIGKILL, to write a checkpoint
LAST_UPLOAD = 300.0  # seconds that the agent may take afterwards, to send it
UNSENT = "result.json"  # in the job's folder, when the store could not take it
_DEADLINE = "deadline.json"  # in the job's folder: what is left of its time
_FAILURE = "failure.json"  # the job's own word on why it failed: cause, message
_AWAY = 600.0  # seconds that the last words may wait for a store that does not answer
# Seconds that a store may refuse, while the job runs and at its end: room and rights seldom come
# by themselves, a job without a store works for nothing, and a person waits for the reason.
_REFUSED, _REFUSED_LAST = 60.0, 10.0
# A folder that is not mounted yet has no spec either.
_STORE_IS_AWAY = (Cause.STORE, Cause.BAD_INPUT)
_SHUTDOWN = 3.0  # seconds in which a machine that goes down tells everybody on it


class Agent:
    """Runs one job from its spec to its result; `restarts` where it is started again at boot."""

    def __init__(
        self,
        store: Store,
        run_id: str,
        job: Path,
        poll: float,
        grace: float = GRACE,
        *,
        restarts: bool = False,
    ) -> None:
        self._store = store
        self._run_id = run_id
        self._job = job
        self._poll = poll
        self._grace = grace
        self._restarts = restarts
        self._log = job / "log.txt"
        self._log_writer = LogWriter(store, run_id, self._log)
        self._mirror = Mirror(store, run_id, job / "out")
        self._pulse = Pulse(store, run_id, job / "out" / "progress.json", poll)
        self._deadline: Deadline | None = None
        self._stop: Failure | None = None
        self._going_down = False
        self._started = now()
        self._begun = time.monotonic()

    def stop(self, *_signal: int | FrameType | None) -> None:
        """Ask the job to stop; it has `grace` seconds to leave a checkpoint."""
        self._stop = self._stop or Failure(
            Cause.CANCELLED, "Stopped on request; what was learned so far is in its checkpoint."
        )

    def go_down(self, *_signal: int | FrameType | None) -> None:
        """Stop the job because the machine goes down: no result, since it goes on afterwards."""
        self._going_down = True
        self._stop = self._stop or Failure(Cause.AGENT_LOST, "The machine is going down.")

    def run(self) -> Result:
        """Prepare, run, mirror, and write the result.

        Where the store cannot take it, the result is left in the job's folder and Failure raised.
        Raises GoingDown when the machine does.
        """
        with self._pulse:
            result = self._outcome()
            if self._going_down and result.cause is not None:
                with contextlib.suppress(Failure):  # it is on the disk as well
                    self._mirror_all()
                raise GoingDown
            self._pulse.state = "finishing"
            try:
                return self._insist(result)
            except Failure as failure:
                self._leave_here(result, failure)
                raise

    def _outcome(self) -> Result:
        try:
            spec, deadline = self._prepared()
            self._pulse.state = "running"
            return self._run_job(spec, deadline)
        except Failure as failure:
            return self._result(None, failure.cause, str(failure))
        except Exception as error:
            traceback.print_exc()
            return self._broken(error)

    def _prepared(self) -> tuple[JobSpec, Deadline]:
        """Prepare; what had begun before waits for a store that is away, and stays paid for."""
        left = seconds_noted(self._job / _DEADLINE)
        while True:
            try:
                return self._prepare()
            except Failure as failure:
                late = left is None or time.monotonic() > self._begun + left
                if late or failure.permanent or failure.cause not in _STORE_IS_AWAY:
                    raise
                _say(failure)
            if self._stop:
                raise self._stop
            time.sleep(self._poll)

    def _prepare(self) -> tuple[JobSpec, Deadline]:
        spec = self._store.read(run_key(self._run_id, "spec.json"), JobSpec)
        if spec is None:
            raise Failure(Cause.BAD_INPUT, f"There is no run {self._run_id} in the store.")
        out = self._job / "out"
        out.mkdir(parents=True, exist_ok=True)
        self._deadline = self._deadline or Deadline(
            self._job / _DEADLINE, spec.ordered.isoformat(), spec.deadline_seconds, self._begun
        )
        for earlier in (out / _FAILURE, self._job / UNSENT):  # an earlier attempt's
            earlier.unlink(missing_ok=True)
        self._mirror.restore()
        self._log_writer.go_on()
        for name, text in spec.files.items():
            path = self._job / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for wanted in spec.inputs:
            self._must_go_on(self._deadline)
            path = self._job / wanted.path
            if not hashes_to(path, wanted.sha256):  # a reboot may have cost what was fetched before
                self._store.get_file(wanted.key, path, sha256=wanted.sha256, link=True)
        self._must_go_on(self._deadline)
        return spec, self._deadline

    def _must_go_on(self, deadline: Deadline) -> None:
        if self._must_stop(deadline):
            assert self._stop
            raise self._stop

    def _must_stop(self, deadline: Deadline) -> bool:
        deadline.keep()
        if self._stop is None and deadline.passed:
            self._stop = _deadline()
        return self._stop is not None

    def _run_job(self, spec: JobSpec, deadline: Deadline) -> Result:
        witness = Witness()
        if self._restarts and witness.gpu_problem:  # it was well when the machine was set up
            raise Failure(Cause.DRIVER, gpu_failed(witness.gpu_problem))
        patience = _AWAY, _REFUSED
        with Supplier(self._store, self._job, spec.on_demand, self._give_up, patience):
            job = Job(spec.argv, self._job, self._log, self._keys() if spec.uses_store else {})
            ended = threading.Event()
            # Apart from the job's supervision, which must not wait for a store that is silent.
            reporter = threading.Thread(target=self._report_until, args=(ended,))
            reporter.start()
            try:
                code = job.wait(self._poll, self._grace, lambda: self._must_stop(deadline))
            finally:
                ended.set()
                reporter.join()
        return self._judge(code, job, witness)

    def _give_up(self, failure: Failure) -> None:
        self._stop = self._stop or failure

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
                    self._give_up(failure)  # it would train for nothing
            except Exception:
                traceback.print_exc()  # a broken mirror must not break the job

    def _judge(self, code: int, job: Job, witness: Witness) -> Result:
        """Whose fault it was: the job's own word counts first, then how it ended."""
        if code == 0:
            return self._result(0, None, "done")
        if self._restarts and was_told_to_stop(code) and self._stop is None:
            time.sleep(_SHUTDOWN)  # who told the job may be about to tell us
        if self._stop:
            return self._result(code, self._stop.cause, str(self._stop))
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            said = json.loads((self._job / "out" / _FAILURE).read_bytes())
            return self._result(code, Cause(said["cause"]), said["message"])
        return self._result(code, *verdict(code, job.last_words(), witness.evidence()))

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
        # A checkpoint that is in the store has its log there, too.
        self._mirror.sync(last=last, first=partial(self._log_writer.send, last=last))

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
                self._write(result)
                return result
            except Failure as failure:
                _say(failure)
                if self._going_down:
                    raise GoingDown from failure
                patience = _REFUSED_LAST if failure.permanent else _AWAY
                waited_for = self._stop is not None and self._stop.cause is Cause.CANCELLED
                if waited_for or time.monotonic() > began + patience:
                    raise
                time.sleep(5)

    def _write(self, result: Result) -> None:
        """Write the last word, and see that it is there: whoever follows waits for nothing else."""
        key = run_key(self._run_id, "result.json")
        self._store.write(key, result)
        if self._store.read_whole(key, Result) != result:
            raise Failure(Cause.STORE, f"{key} is not what was written there a moment ago.")

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


def _say(failure: Failure) -> None:
    stamp = datetime.now().astimezone().isoformat(timespec="seconds")
    print(f"{stamp} {failure.cause} {failure}", file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m infra.agent",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--store", required=True, help="file:///folder or s3://bucket/prefix")
    parser.add_argument("--run", required=True, help="the run's id; its spec must be in the store")
    parser.add_argument("--job", required=True, type=Path, help="the job's folder; is made")
    poll = float(os.environ.get("VOC_TRAIN_POLL") or 1)
    parser.add_argument(
        "--poll", type=float, default=poll, help="seconds between two looks (VOC_TRAIN_POLL, or 1)"
    )
    parser.add_argument(
        "--grace", type=float, default=GRACE, help="seconds for the job between stop and kill"
    )
    parser.add_argument(
        "--secrets", type=Path, help="JSON object of environment variables; is removed when read"
    )
    parser.add_argument(
        "--restart",
        action="store_true",
        help="go on after a reboot: leaves the order for that beside the job's folder, with the "
        "secrets; SIGTERM then says that the machine goes down, SIGINT is to stop",
    )
    return parser.parse_args()


def main() -> int:
    """Command line; 0 when the result says done, 1 otherwise."""
    args = _arguments()
    job = args.job.absolute()
    try:
        secrets = take_secrets(args.secrets) if args.secrets else {}
        store = Store.open(args.store)
        with alone(job):
            agent = Agent(store, args.run, job, args.poll, args.grace, restarts=args.restart)
            signal.signal(signal.SIGTERM, agent.go_down if args.restart else agent.stop)
            signal.signal(signal.SIGINT, agent.stop)
            order = (
                restarted_at_boot(job.parent, args.store, args.run, secrets)
                if args.restart
                else nullcontext()
            )
            with order:
                return 0 if agent.run().cause is None else 1
    except Failure as failure:
        _say(failure)
    except GoingDown:
        print("the machine goes down", file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
