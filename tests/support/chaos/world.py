"""A provider, a store, and computers that use them: where runs take place, one after the other."""

import contextlib
import os
import re
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from chaos.computers import Computers
from chaos.wire import Marks, Proxy, Switchboard, plain
from infra.clock import Clock
from infra.provider import DELETION_ORDER
from infra.simulator.things import Instance
from infra.stores import Store
from pipeline.sample_archive import SAMPLE_CLASSES, write_sample_archive
from pipeline.stages.build_dataset import build_dataset
from pipeline.stages.extract import extract
from pipeline.stages.separate import separate
from rentals import Account, specification
from servers.certificates import issue
from servers.rgw import RGW

SPEED = 600.0  # seconds of the clock in a real one
_BUCKET = "chaos"
_PATHS = {
    "instance": "/linode/instances",
    "firewall": "/networking/firewalls",
    "key": "/object-storage/keys",
    "stackscript": "/linode/stackscripts",
}
_REGION = "us-ord"  # where the simulated account has a server behind its object storage


class World:
    """Open between entering and leaving; for one case after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.board = Switchboard()
        self._stack = ExitStack()

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
        self.computers = Computers(self.folder)
        rgw = stack.enter_context(RGW(_made(self.folder / "rgw")))
        certificates = issue(_made(self.folder / "certificates"))
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
                certificates=certificates,
                trusted=trusted,
            )
        )
        self.account = stack.enter_context(
            Account(
                self.folder / "linode",
                clock=Clock.fast(SPEED),
                spec=specification(),
                object_storage=_Elsewhere(gateway, self.store_proxy.url),
            )
        )
        made = self.ask("POST", "/object-storage/buckets", label=_BUCKET, region=_REGION)
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
        archive, spool = self.folder / "shapes.tar", self.folder / "spool"
        write_sample_archive(archive, train=12, val=4, unlabelled=1)
        extracted, _ = extract(str(archive), self.store, spool)
        separation, _ = separate([extracted], self.store, spool)
        built, _ = build_dataset(
            separation, [extracted], self.store, spool, classes=SAMPLE_CLASSES, max_side=None
        )
        return built.key

    def left(self) -> list[str]:
        """What is ours at the provider, in words."""
        ours = [thing for thing in self.account.left() if thing.kind in DELETION_ORDER]
        return [f"{thing.kind} {thing.label}" for thing in ours]

    def clear(self) -> None:
        """Delete what is left, so that it is no other case's fault."""
        self.account.faults.clear()
        for thing in self.account.left():
            if (path := _PATHS.get(thing.kind)) and thing.kind in DELETION_ORDER:
                self.ask("DELETE", f"{path}/{thing.id}")

    def written(self, run_id: str) -> list[tuple[str, str]]:
        """What that run's controllers and agents wrote to the store: PUT or DELETE, and the key."""
        runs = f"/runs/{run_id}/"
        return [
            (method, path.partition(runs)[2].partition("?")[0])
            for method, path in self.store_proxy.done
            if method in ("PUT", "DELETE") and runs in path
        ]

    def cut_the_newest(self, run_id: str) -> None:
        """The object of that run that was written last loses its second half."""
        listed = self._s3.list_objects_v2(Bucket=_BUCKET, Prefix=f"store/runs/{run_id}/")
        newest = max(listed["Contents"], key=lambda one: one["LastModified"])
        whole = self._s3.get_object(Bucket=_BUCKET, Key=newest["Key"])["Body"].read()
        self._s3.put_object(Bucket=_BUCKET, Key=newest["Key"], Body=whole[: len(whole) // 2])

    def machines(self, run_id: str) -> list[Instance]:
        """Those that the run has rented and not given back."""
        ours = f"voc-train-{run_id}-"
        return [one for one in self.account.account.all(Instance) if one.label.startswith(ours)]

    def ask(self, method: str, path: str, **body: object) -> httpx.Response:
        """Something of the provider, past the proxy."""
        token = {"Authorization": f"Bearer {self.account.token}"}
        return httpx.request(method, f"{self.account.url}{path}", json=body, headers=token)

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
