"""Keys are where they have to be, and nowhere else: looked for while it runs, and afterwards."""

import base64
import itertools
import secrets
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest
from botocore.exceptions import ClientError

from infra.failure import Failure
from infra.receipt import read_receipt
from infra.restart import RESTART
from infra.simulator.faults import Effect
from infra.simulator.object_storage import RadosGateway
from infra.simulator.storage_keys import Key
from infra.simulator.things import Instance, Script
from infra.stores import Store
from pipeline.sample_archive import SAMPLE_CLASSES
from rentals import TINY, Account, Renter, inside, voc_train
from servers.prefect import PrefectServer
from servers.rgw import RGW


class Canaries:
    """Values that must not be seen, in every form in which they would be written."""

    def __init__(self) -> None:
        self._forms: dict[bytes, str] = {}

    def add(self, name: str, value: str) -> None:
        raw = value.encode()
        self._forms[raw] = name
        self._forms[quote(value, safe="").encode()] = name
        # Within a longer text it may begin at any of three positions.
        for before, coder in itertools.product(
            range(3), (base64.b64encode, base64.urlsafe_b64encode)
        ):
            text = coder(bytes(before) + raw)
            self._forms[text[4 if before else 0 : len(text) // 4 * 4 - 4]] = name

    def in_(self, data: bytes) -> set[str]:
        """Names of those that are there."""
        return {name for form, name in self._forms.items() if form in data}

    def in_files(self, files: Iterable[Path]) -> dict[str, set[str]]:
        """Those that are there, by path."""
        found = {str(path): self.in_(path.read_bytes()) for path in files if path.is_file()}
        return {path: names for path, names in found.items() if names}


@pytest.mark.parametrize(
    "value", ["a-secret/with+signs==", secrets.token_hex(20)], ids=["signs", "hexadecimal"]
)
def test_a_deliberate_leak_is_found_in_every_form(value: str, tmp_path: Path) -> None:
    canaries = Canaries()
    canaries.add("token", value)
    for position, leak in enumerate(
        [
            f"x {value} y".encode(),
            f"https://host/?key={quote(value, safe='')}".encode(),
            *(base64.b64encode(f"{'u' * n}{value}: and more".encode()) for n in range(4)),
            base64.urlsafe_b64encode(f"user:{value}".encode()),
        ]
    ):
        assert canaries.in_(leak) == {"token"}, leak
        (tmp_path / str(position)).write_bytes(leak)
    assert len(canaries.in_files(tmp_path.iterdir())) == 7
    assert not canaries.in_(b"nothing of the kind")


class Watch:
    """Looks at every process for as long as a block lasts, and keeps what it must not see."""

    def __init__(self, account: Account, canaries: Canaries) -> None:
        self._account = account
        self._canaries = canaries
        self.seen: set[str] = set()
        self.looked_at: set[str] = set()  # parts of the machine, so that looking at none shows

    @contextmanager
    def watching(self) -> Iterator[None]:
        over = threading.Event()

        def look() -> None:
            while not over.wait(0.1):
                self._look()

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _look(self) -> None:
        for key in self._account.account.all(Key):
            self._canaries.add("the run's bucket secret", key.secret_key)
        for process in psutil.process_iter():
            self._note("arguments", process, "cmdline")
        for process in inside():
            self._note("environment", process, "environ")
            for part in ("infra.agent", "model.train"):
                if part in _read(process, "cmdline").decode(errors="replace"):
                    self.looked_at.add(part)
        for instance in self._account.account.all(Instance):
            self._report("order", f"{instance.order}".encode())
            disk = self._account.disk(instance.label)
            self.seen |= {
                f"{names} in {path}"
                for path, names in self._canaries.in_files(disk.glob("root/*.log")).items()
            }
            for file in disk.glob("root/voc-train/*/*"):
                if file.name not in ("secrets.json", RESTART):
                    continue
                self.looked_at.add(file.name)
                mode = file.stat().st_mode & 0o777
                self.seen |= {f"{file} has mode {mode:o}"} if mode != 0o600 else set()
        for script in self._account.account.all(Script):
            self._report("script", f"{script.script}{script.view()}".encode())

    def _note(self, what: str, process: psutil.Process, file: str) -> None:
        self._report(f"{what} of {process.pid}", _read(process, file))

    def _report(self, where: str, data: bytes) -> None:
        self.seen |= {f"{name} in {where}" for name in self._canaries.in_(data)}


def _read(process: psutil.Process, file: str) -> bytes:
    try:
        return Path(f"/proc/{process.pid}/{file}").read_bytes()
    except OSError:  # it has ended
        return b""


@pytest.fixture
def bucket(rgw: RGW, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in rgw.environment().items():
        monkeypatch.setenv(name, value)
    return rgw.create_bucket(f"rental-{secrets.token_hex(4)}")


@pytest.fixture
def gateway(rgw: RGW) -> RadosGateway:
    """Object storage of the account: its keys open real buckets."""
    return rgw.gateway()


@pytest.fixture
def canaries(account: Account, rgw: RGW, monkeypatch: pytest.MonkeyPatch) -> Canaries:
    """What the controller has in its environment."""
    feed = secrets.token_hex(20)
    monkeypatch.setenv("WANDB_API_KEY", feed)
    canaries = Canaries()
    canaries.add("the provider's token", account.token)
    canaries.add("the account's bucket secret", rgw.secret_key)
    canaries.add("W&B's key", feed)
    return canaries


def test_a_run_by_way_of_a_bucket_shows_its_keys_to_nobody(
    account: Account,
    archive: Path,
    bucket: str,
    canaries: Canaries,
    prefect: PrefectServer,
    rgw: RGW,
    home: Path,
) -> None:
    watch = Watch(account, canaries)
    with watch.watching():
        done = voc_train(
            (
                *("run", "linode", "--archive", str(archive), "--store", f"s3://{bucket}/here"),
                *("--classes", ",".join(SAMPLE_CLASSES), "--yes", "--no-reaper", *TINY),
            ),
            {"PREFECT_API_URL": prefect.api},
        )
    assert watch.looked_at >= {"infra.agent", "model.train", RESTART}
    assert watch.seen == set()
    assert canaries.in_(f"{done.stdout}{done.stderr}".encode()) == set()

    store = Store.open(f"s3://{bucket}/here")
    names = [entry.key for entry in store.list("")]
    assert any(name.endswith("result.json") for name in names)
    assert not [name for name in names if canaries.in_(store.get(name) or b"")]
    (database,) = Path(prefect.environment["PREFECT_HOME"]).glob("*.db")
    assert bucket.encode() in b"".join(p.read_bytes() for p in database.parent.glob("*.db*"))
    assert canaries.in_files(database.parent.rglob("*")) == {}
    assert canaries.in_files(home.rglob("*")) == {}

    (key,) = [thing for thing in account.account.past if isinstance(thing, Key)]
    with pytest.raises(ClientError, match="InvalidAccessKeyId"):
        rgw.client(key.access_key, key.secret_key).list_objects_v2(Bucket=bucket)
    (run_id,) = store.folders("runs")
    receipt = read_receipt(store, run_id)
    assert receipt
    assert {line.kind for line in receipt.lines if line.gone} >= {"instance", "firewall", "key"}
    assert receipt.dollars == pytest.approx(sum(line.dollars for line in account.bill()))


def test_the_job_gets_the_feeds_key_and_nothing_else(
    account: Account, canaries: Canaries, renter: Renter
) -> None:
    renter.run.parameters = renter.run.parameters.model_copy(update={"wandb": "auto"})
    shown: dict[str, set[str]] = {}

    def look() -> None:
        for process in inside():
            words = _read(process, "cmdline").decode(errors="replace")
            shown.setdefault("arguments", set()).update(canaries.in_(words.encode()))
            part = "agent" if "infra.agent" in words else "job" if "at work" in words else "box"
            found = canaries.in_(_read(process, "environ"))
            shown.setdefault(part, set()).update(found)

    renter.listener.when("at work", look)
    renter.rent("print('at work', flush=True); import time; time.sleep(2)")
    assert shown == {"arguments": set(), "agent": set(), "job": {"W&B's key"}, "box": set()}


def test_what_fails_quotes_no_key(account: Account, canaries: Canaries, renter: Renter) -> None:
    account.faults.add(Effect.EXPIRED_TOKEN)
    with pytest.raises(Failure) as caught:
        renter.rent()
    said = "".join(traceback.format_exception(caught.value))
    assert "expired" in said
    assert canaries.in_(said.encode()) == set()
    assert canaries.in_(repr(caught.value.__dict__).encode()) == set()
