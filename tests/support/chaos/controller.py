"""Who rents: one process that does what the flow does for a training, without Prefect.

What is no request of its own it reports before and after doing it: commands over SSH, processes,
stages.
"""

import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import infra.coming_up
import infra.handover
import infra.linode
import infra.remote
import infra.ssh
import pipeline.artifacts
import pipeline.run
import pipeline.stages.train
import pipeline.tenancy
from chaos import job
from chaos.wire import plain
from infra.claims import Hold
from infra.clock import Clock
from infra.failure import Cause, Failure
from infra.lease import Patience
from infra.linode import Linode
from infra.linode.api import Timeouts
from infra.protocol import JobSpec, run_key
from infra.reaper import reap
from infra.stores import Store
from infra.visit import access_to
from model.manifest import Manifest, Shard
from model.recipes import named
from pipeline.dataset import dataset_prefix
from pipeline.machines import first_that_lasts, workplaces
from pipeline.parameters import Parameters
from pipeline.run import Run, explained, new_run_id
from pipeline.run_record import recorded_run
from pipeline.tenancy import Workplace

BUDGET, BUDGET_TO_LEARN = 5.0, 50.0  # dollars: a real net takes long by the fast clock
_ENOUGH = 120.0  # seconds that a job may take
# Seconds that are real, and of the clock: as long as something that goes well takes here, and more.
_REAL = {"login": 8.0, "set_up": 20.0, "heartbeat": 6.0, "stall": 4.0, "late": 4.0}
_AGENT = "VOC_TRAIN_POLL=0.1 VOC_TRAIN_STORE_TIMEOUT=2"
_OF_THE_CLOCK = {"capacity": 900.0, "boot": 1800.0, "deletion": 3600.0}


@dataclass(frozen=True)
class Errand:
    """What a process is to do, and on which computer."""

    run_id: str
    environment: dict[str, str]
    said: str  # file for the outcome, as JSON
    resume: bool = False
    reap: bool = False
    marks: int | None = None  # port; without one nothing is reported
    dataset: str = ""  # in the store: on which a real net is trained


def do(errand: Errand) -> None:
    """Do it, and leave word of how it ended. A process that is killed leaves none."""
    os.setsid()
    os.environ.clear()
    os.environ.update(errand.environment)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _hurry()
    if errand.resume:
        # Who was stopped is gone for whoever comes after it, but not the other way round.
        Hold.__init__.__kwdefaults__ |= {"every": 1.0, "silent": timedelta(seconds=1)}
    if errand.marks:
        _report(errand.marks)
    try:
        mine = new_run_id() if errand.reap else errand.run_id
        with access_to(_url(errand), mine, Clock.from_environment()):
            outcome = _reaped(errand) if errand.reap else _trained(errand)
    except BaseException as error:
        cause, message = explained(error)
        outcome = {"cause": cause, "message": message, "kind": type(error).__name__}
    part = Path(errand.said).with_suffix(".part")
    part.write_text(json.dumps(outcome))
    part.rename(errand.said)


def _interrupt(_number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one is enough
    raise KeyboardInterrupt


def _trained(errand: Errand) -> dict[str, str]:
    """Rent, train, bring the checkpoint home: the digest that it ends with."""
    store = Store.open(_url(errand))
    if errand.resume:
        earlier = recorded_run(store, errand.run_id)
        run = Run(Parameters.model_validate(earlier.parameters), [], earlier=earlier)
        if earlier.state == "done":
            return {"done": _brought_home(store, errand.run_id)}
    else:
        budget = BUDGET_TO_LEARN if errand.dataset else BUDGET
        run = Run(_parameters(store, budget), [])
        run.run_id = errand.run_id
    dataset = _dataset(store, errand.dataset)
    with run.recorded(), workplaces(run, dataset) as places:
        first_that_lasts(places, functools.partial(_train, run, dataset))
        digest = _brought_home(store, run.run_id)
    return {"done": digest}


def _url(errand: Errand) -> str:
    return errand.environment["VOC_TRAIN_STORE"]


def _reaped(errand: Errand) -> dict[str, str]:
    store = Store.open(_url(errand))
    clock = Clock.from_environment()
    provider = Linode.from_environment(clock)
    for _ in range(20):  # as cron does
        report = reap(provider, store, clock, delete=True, run_id=errand.run_id, say=lambda _: None)
        if not report.found or all(found.state == "gone" for found in report.found):
            return {"reaped": str(len(report.found))}
        clock.sleep(300)
    return {"cause": "LEAKED", "message": report.model_dump_json()}


def _train(run: Run, dataset: Manifest, place: Workplace) -> None:
    with run.stage("train") as stage:
        seconds = min(_ENOUGH, place.seconds)
        spec = JobSpec(run_id=run.run_id, argv=("python", "-c", job.CODE), deadline_seconds=seconds)
        if dataset.key:
            spec = pipeline.stages.train.job_for(
                run.run_id,
                named("tiny").override({"epochs": 3, "width": 1, "depth": 1}),
                dataset,
                place.store,
                device="cpu",
                workers=0,
                wandb="disabled",
                deadline_seconds=seconds,
            )
        pipeline.stages.train.train(
            spec,
            place.store,
            place.machine,
            begun=place.begun,
            clock=place.clock,
            patience=place.patience,
            say=stage.say,
            must_hold=run.must_hold,
        )


def _brought_home(store: Store, run_id: str) -> str:
    """The digest in the newest checkpoint that verifies."""
    prefix = run_key(run_id, "checkpoints")
    for step in sorted(store.folders(prefix), reverse=True):
        manifest = store.get(f"{prefix}/{step}/manifest.json")
        blobs = [one.key for one in store.list(f"{prefix}/{step}") if "manifest" not in one.key]
        if manifest and blobs:
            with contextlib.suppress(ValueError):
                return job.digest_in(store.get(blobs[0]) or b"", manifest)
    raise Failure(Cause.CORRUPT, f"No checkpoint of run {run_id} verifies; train again.")


def _parameters(store: Store, budget: float) -> Parameters:
    return Parameters(
        archives=("https://nowhere.invalid/none.tar",),
        classes=("background", "thing"),
        recipe="tiny",
        store=store.url,
        machine="linode",
        rental={"reaper": False, "budget": budget},
        wandb="disabled",
    )


def _dataset(store: Store, key: str) -> Manifest:
    """A real one, or one that is none."""
    if key and (found := store.read(f"{dataset_prefix(key)}/manifest.json", Manifest)):
        return found
    return Manifest(
        key="", digest="", classes=(), counts={}, pixels={}, archives=(), max_side=None,
        shards=(Shard(name="00000.tar", size=1000, sha256=""),), index_sha256="", left_out={},
    )  # fmt: skip


def _hurry() -> None:
    """Nothing here is far away, so nothing is waited for as long as if it were."""

    patience = _OF_THE_CLOCK | _REAL  # what is real is multiplied by the speed where it is used
    pipeline.tenancy.Patience = functools.partial(Patience, **patience)  # type: ignore[misc,assignment]
    infra.linode.Linode.__init__.__defaults__ = (  # type: ignore[misc]
        *(infra.linode.Linode.__init__.__defaults__ or ())[:-1],
        Timeouts(connect=2, read=2),
    )
    launch = infra.handover.launch
    infra.handover.launch = lambda *words: launch(*words).replace("env ", f"env {_AGENT} ")
    infra.coming_up._LOOK = 60.0  # of the clock: more often, and the looks delay what is awaited
    infra.remote._LOOK = 0.05
    infra.remote._DEAF = 3.0
    infra.ssh.Connection.__init__.__kwdefaults__["timeout"] = 4.0
    pipeline.stages.train._POLL_AFAR = 0.1
    pipeline.stages.train._STORE_PATIENCE = 20.0
    pipeline.artifacts.show_receipt = lambda receipt: None  # Prefect would start a server for it
    Hold.__init__.__kwdefaults__["say"] = lambda line: None


def _report(port: int) -> None:
    """Have SSH commands, processes and stages ask before they are done."""
    lines = threading.local()

    def tell(place: str, what: str, when: str) -> None:
        if not hasattr(lines, "file"):
            lines.file = socket.create_connection(("127.0.0.1", port)).makefile("rw")
        lines.file.write(json.dumps([place, what, when]) + "\n")
        lines.file.flush()
        if lines.file.readline() == "raise\n":
            raise RuntimeError(f"{what} went wrong")

    def reported(place: str, name: Callable[..., str], done: Callable[..., Any]) -> Any:
        @functools.wraps(done)
        def doing(*arguments: Any, **more: Any) -> Any:
            what = name(*arguments, **more)
            tell(place, what, "before")
            result = done(*arguments, **more)
            tell(place, what, "after")
            return result

        return doing

    connection = infra.ssh.Connection
    connection.__init__ = reported("ssh", lambda *_, **__: "connect", connection.__init__)  # type: ignore[method-assign]
    connection.run = reported("ssh", lambda _, command, *__, **___: _short(command), connection.run)  # type: ignore[method-assign]
    connection.put = reported(  # type: ignore[method-assign]
        "ssh", lambda _, content, path, **__: f"put {plain(Path(path).name)}", connection.put
    )
    subprocess.Popen.__init__ = reported(  # type: ignore[method-assign]
        "process", lambda _, command, *__, **___: Path(str(command[0])).name,
        subprocess.Popen.__init__,
    )  # fmt: skip
    stage = pipeline.run.Run.stage

    @contextmanager
    def reported_stage(self: Run, name: str) -> Any:
        tell("stage", f"{name} begins", "before")
        tell("stage", f"{name} begins", "after")
        with stage(self, name) as it:
            yield it
        tell("stage", f"{name} ends", "before")
        tell("stage", f"{name} ends", "after")

    pipeline.run.Run.stage = reported_stage  # type: ignore[method-assign]


def _short(command: str) -> str:
    """What a command over SSH is about, in a word or three."""
    for sign, name in (
        ("infra.launch", "launch"),
        ("pip install", "install"),
        ("stackscript", "look at the set-up"),
        ("ssh_host", "rotate the host key"),
    ):
        if sign in command:
            rest = command.split("infra.launch", 1)[1].split()[0] if name == "launch" else ""
            return f"{name} {rest}".strip()
    return plain(" ".join(command.split()[:2]))[:40]
