"""A provider, a store and their users on this computer; and one case from beginning to end."""

import contextlib
import json
import multiprocessing
import os
import re
import secrets
import signal
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil

from chaos import controller
from chaos.controller import Errand
from chaos.faults import Fault
from chaos.wire import Harm, Marks, Proxy, Switchboard, plain
from infra.clock import Clock
from infra.provider import DELETION_ORDER
from infra.simulator.faults import Effect
from infra.simulator.things import Instance
from infra.stores import Store
from pipeline.run import new_run_id
from pipeline.sample_archive import SAMPLE_CLASSES, write_sample_archive
from pipeline.stages.build_dataset import build_dataset
from pipeline.stages.extract import extract
from pipeline.stages.separate import separate
from rentals import Account, inside, specification
from servers.certificates import issue
from servers.rgw import RGW

SPEED = 600.0  # seconds of the clock in a real one
_BUCKET = "chaos"
_AWAY = 2.0  # seconds that a store is away, or refuses
_ENDS = 60.0  # seconds within which whatever a controller does has to come to an end
_KEY = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL")
_PATHS = {
    "instance": "/linode/instances",
    "firewall": "/networking/firewalls",
    "key": "/object-storage/keys",
    "stackscript": "/linode/stackscripts",
}
_REGION = "us-ord"  # where the simulated account has a server behind its object storage


@dataclass(frozen=True)
class Ending:
    """How a process ended: `outcome` is its own word, None where it was killed."""

    outcome: dict[str, str] | None
    seconds: float


@dataclass(frozen=True)
class Story:
    """What happened in a case, for the judge."""

    run_id: str
    struck: bool
    endings: list[Ending]  # of the first controller, and of the computers after it
    reaped: bool
    trained: bool  # a real net
    left: list[str]  # by the first controller, where nobody killed it
    written: list[tuple[str, str]]  # to the store: PUT or DELETE, and the key within the run

    @property
    def ends(self) -> tuple[str, ...]:
        """How each of them ended, in a word: done, reaped, killed or a cause."""
        outcomes = [ending.outcome for ending in self.endings]
        return tuple(
            said.get("cause") or next(iter(said)) if said else "killed" for said in outcomes
        )


class World:
    """Open between entering and leaving; for one case after the other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["chaos.controller"])
        self.board = Switchboard()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._begin(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _begin(self, stack: ExitStack) -> None:
        # Before there are threads: a process that is forked off must not inherit their locks.
        self._run(Errand("", {"VOC_TRAIN_STORE": "file:///nowhere"}, str(self._folder / "first")))
        rgw = stack.enter_context(RGW(_made(self._folder / "rgw")))
        certificates = issue(_made(self._folder / "certificates"))
        served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        served.load_cert_chain(certificates.certificate, certificates.key)
        self._s3 = rgw.client()
        rgw.create_bucket(_BUCKET)
        gateway = rgw.gateway()
        self._access, self._secret = gateway.create_key("controller", [(_BUCKET, "read_write")])
        self._unnamed = {rgw.access_key}
        trusted = ssl.create_default_context(cafile=str(rgw.ca_bundle))
        self.store_proxy = stack.enter_context(
            Proxy(
                rgw.endpoint,
                self.board,
                "store",
                self._store_act,
                served=served,
                trusted=trusted,
            )
        )
        self.account = stack.enter_context(
            Account(
                self._folder / "linode",
                clock=Clock.fast(SPEED),
                spec=specification(),
                object_storage=_Elsewhere(gateway, self.store_proxy.url),
            )
        )
        made = self._ask("POST", "/object-storage/buckets", label=_BUCKET, region=_REGION)
        assert made.status_code == 200, made.text
        for kind in ("instance", "firewall", "volume", "key", "stackscript"):
            with contextlib.suppress(KeyError):
                self.account.add_foreign(kind, f"somebody-elses-{kind}")
        self.provider_proxy = stack.enter_context(
            Proxy(self.account.url.removesuffix("/v4"), self.board, "provider", _provider_act)
        )
        self.marks = stack.enter_context(Marks(self.board))
        self.environment = self.account.environment() | {
            "LINODE_URL": f"{self.provider_proxy.url}/v4",
            "AWS_ACCESS_KEY_ID": self._access,
            "AWS_SECRET_ACCESS_KEY": self._secret,
            "AWS_ENDPOINT_URL": self.store_proxy.url,
            "AWS_REGION": "us-east-1",
            "AWS_CA_BUNDLE": str(certificates.ca),
            "PATH": os.environ["PATH"],
            "OMP_NUM_THREADS": "1",
            "VOC_TRAIN_STORE_TIMEOUT": "2",
        }
        self.store = self._opened_store()

    @cached_property
    def dataset(self) -> str:
        """The key of a small dataset in the store, for a real training."""
        archive, spool = self._folder / "shapes.tar", self._folder / "spool"
        write_sample_archive(archive, train=12, val=4, unlabelled=1)
        extracted, _ = extract(str(archive), self.store, spool)
        separation, _ = separate([extracted], self.store, spool)
        built, _ = build_dataset(
            separation, [extracted], self.store, spool, classes=SAMPLE_CLASSES, max_side=None
        )
        return built.key

    @cached_property
    def undisturbed(self) -> str:
        """The digest that a real training ends with when nothing goes wrong."""
        (ending,) = self.play("", None, reap=False, trained=True).endings
        return (ending.outcome or {})["done"]

    def play(self, target: str, fault: Fault | None, *, reap: bool, trained: bool = False) -> Story:
        """One case: a run in which that goes wrong, and who comes after it."""
        run_id = new_run_id()
        self._run_id, self._controller = run_id, None
        self._trained = trained and self.dataset
        self.board.expect(target, self._harm(fault) if fault else Harm())
        if fault is Fault.CLOCK:
            self.account.programs = {"date": 'exec /usr/bin/date --date="1 hour" "$@"'}
            self.board.struck = True
        self.store_proxy.done.clear()
        self.account.faults.clear()
        endings = [self._controlled(run_id)]
        left = [] if endings[0].outcome is None else self.left()
        self.account.programs = {}
        self.store_proxy.away.clear()
        self.store_proxy.refuses = None
        struck = self.board.struck
        for _ in range(3):
            outcome = endings[-1].outcome
            if outcome and "done" in outcome:
                break
            if not reap and outcome and outcome.get("cause") in ("CORRUPT", "BAD_INPUT"):
                reap = True  # nobody can go on with what is no run any more
            endings.append(self._controlled(run_id, resume=not reap, reap=reap))
            if reap:
                break
        return Story(run_id, struck, endings, reap, trained, left, self._written())

    def left(self) -> list[str]:
        """What is ours at the provider, in words."""
        ours = [thing for thing in self.account.left() if thing.kind in DELETION_ORDER]
        return [f"{thing.kind} {thing.label}" for thing in ours]

    def clear(self) -> None:
        """Delete what is left, so that it is no other case's fault."""
        self.account.faults.clear()
        for thing in self.account.left():
            if (path := _PATHS.get(thing.kind)) and thing.kind in DELETION_ORDER:
                self._ask("DELETE", f"{path}/{thing.id}")

    def _written(self) -> list[tuple[str, str]]:
        runs = f"/runs/{self._run_id}/"
        return [
            (method, path.partition(runs)[2].partition("?")[0])
            for method, path in self.store_proxy.done
            if method in ("PUT", "DELETE") and runs in path
        ]

    def _controlled(self, run_id: str, *, resume: bool = False, reap: bool = False) -> Ending:
        """A computer of its own, with an empty home, that does one thing."""
        name = secrets.token_hex(4)
        home = _made(self._folder / f"home-{name}")
        environment = dict(self.environment)
        if resume or reap:  # a token and the store's URL are all it has
            for known in _KEY:
                del environment[known]
        errand = Errand(
            run_id,
            environment
            | {
                "HOME": str(home),
                "VOC_TRAIN_HOME": str(home),
                "VOC_TRAIN_STORE": self.store.url,
            },
            str(self._folder / f"said-{name}"),
            resume=resume,
            reap=reap,
            marks=None if resume or reap else self.marks.port,
            dataset=self._trained or "",
        )
        return self._run(errand)

    def _run(self, errand: Errand) -> Ending:
        began = time.monotonic()
        process = self._processes.Process(target=controller.do, args=(errand,))
        process.start()
        self._controller = process
        ends = _ENDS * (3 if errand.dataset else 1)
        process.join(ends)
        if process.is_alive():
            process.kill()
            process.join()
            outcome = {"cause": "ENDLESS", "message": f"it did not end within {ends:.0f} s"}
        else:
            said = Path(errand.said)
            outcome = json.loads(said.read_text()) if said.exists() else None
        self._controller = None
        return Ending(outcome, time.monotonic() - began)

    # What goes wrong

    def _harm(self, fault: Fault) -> Harm:
        match fault:
            case Fault.KILLED_BEFORE:
                return Harm(before=self._kill_controller)
            case Fault.KILLED_AFTER:
                return Harm(after=self._kill_controller, lost=True)
            case Fault.TERMINATED:
                return Harm(before=lambda: self._kill_controller(signal.SIGTERM))
            case Fault.RAISES:
                return Harm(raises=True)
            case Fault.LOST:
                return Harm(lost=True)
            case Fault.TIMES_OUT:
                return Harm(silent=True)
            case Fault.ANSWERS_429 | Fault.ANSWERS_500 | Fault.ANSWERS_502:
                return Harm(status=int(fault[-3:]))
            case Fault.AWAY:
                return Harm(before=self._go_away, lost=True)
            case Fault.REFUSES:
                return Harm(before=self._refuse, status=403)
            case Fault.TAIL:
                return Harm(after=self._cut_the_newest)
            case Fault.VANISHES:
                return Harm(before=self._vanish)
            case Fault.FREEZES:
                return Harm(before=self._freeze)
            case Fault.REBOOTS:
                return Harm(before=self._reboot)
            case Fault.FILLS:
                return Harm(before=lambda: self._inside(_fill))
            case Fault.AGENT_KILLED:
                return Harm(before=lambda: self._inside(psutil.Process.kill, "infra.agent"))
            case Fault.JOB_KILLED:
                return Harm(before=lambda: self._inside(psutil.Process.kill, "-c"))
            case Fault.CLOCK:
                return Harm()

    def _kill_controller(self, how: signal.Signals = signal.SIGKILL) -> None:
        if process := self._controller:
            os.kill(process.pid, how)

    def _go_away(self) -> None:
        self.store_proxy.away.set()
        _later(_AWAY, self.store_proxy.away.clear)

    def _refuse(self) -> None:
        self.store_proxy.refuses = 403

        def welcome() -> None:
            self.store_proxy.refuses = None

        _later(_AWAY, welcome)

    def _cut_the_newest(self) -> None:
        listed = self._s3.list_objects_v2(Bucket=_BUCKET, Prefix=f"store/runs/{self._run_id}/")
        newest = max(listed["Contents"], key=lambda one: one["LastModified"])
        whole = self._s3.get_object(Bucket=_BUCKET, Key=newest["Key"])["Body"].read()
        self._s3.put_object(Bucket=_BUCKET, Key=newest["Key"], Body=whole[: len(whole) // 2])

    def _instances(self) -> list[Instance]:
        ours = f"voc-train-{self._run_id}-"
        return [one for one in self.account.account.all(Instance) if one.label.startswith(ours)]

    def _vanish(self) -> None:
        for instance in self._instances():
            self.account.faults.add(Effect.VANISH, label=instance.label, times=1)

    def _freeze(self) -> None:
        for instance in self._instances():
            if instance.machine:
                instance.machine.freeze()
        self._inside(psutil.Process.suspend)

    def _reboot(self) -> None:
        for instance in self._instances():
            self._ask("POST", f"/linode/instances/{instance.id}/reboot")

    def _ask(self, method: str, path: str, **body: object) -> httpx.Response:
        """Of the provider, past the proxy."""
        token = {"Authorization": f"Bearer {self.account.token}"}
        return httpx.request(method, f"{self.account.url}{path}", json=body, headers=token)

    def _inside(self, do: Callable[[psutil.Process], object], word: str = "") -> None:
        for process in inside():
            with contextlib.suppress(psutil.Error):
                if not word or word in process.cmdline():
                    do(process)

    # Who does what

    def _store_act(self, method: str, path: str, headers: Any) -> tuple[str, str] | None:
        """Writes, and the look at the job's order, by whose key they come with."""
        signed = re.search(r"Credential=([^/]+)/", headers.get("authorization", ""))
        key = signed[1] if signed else ""
        wanted = method in ("PUT", "POST", "DELETE") or path.endswith("/spec.json")
        if not wanted or key in self._unnamed:
            return None
        who = "controller" if key == self._access else "agent"
        return who, f"{method} {plain(path.partition('?')[0].split('/store/', 1)[-1])}"

    def _opened_store(self) -> Store:
        with _environment(self.environment):
            return Store.open(f"s3://{_BUCKET}/store")


class _Elsewhere:
    """Object storage whose users come by way of a proxy."""

    def __init__(self, gateway: Any, endpoint: str) -> None:
        self._gateway = gateway
        self.endpoint = endpoint

    def __getattr__(self, name: str) -> Any:
        return getattr(self._gateway, name)


def _provider_act(method: str, path: str, _headers: Any) -> tuple[str, str]:
    return "controller", f"{method} {plain(path.partition('?')[0].removeprefix('/v4'))}"


def _fill(process: psutil.Process) -> None:
    """No file of it grows any more."""
    process.rlimit(psutil.RLIMIT_FSIZE, (1, 1))


def _later(seconds: float, do: Callable[[], object]) -> None:
    timer = threading.Timer(seconds, do)
    timer.daemon = True
    timer.start()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
