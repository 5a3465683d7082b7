"""Whatever stands between a user and a rental is found, one by one, and has a cure."""

import base64
import json
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.clock import Clock
from infra.doctor import Finding, examine
from infra.failure import Cause, Failure
from infra.linode import Linode
from infra.reaper_report import ReaperReport
from infra.simulator import Simulator
from infra.stores import Store
from servers.rgw import RGW
from servers.web import Served
from small_disk import Disk

Look = Callable[..., dict[str, Finding]]
AWAY = "https://198.51.100.1/v4"  # nobody's address, and not asked: its clock is a rehearsal's
KEY = "a" * 40
NO_TOKEN = Failure(Cause.PROVIDER, "There is no token.")


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with Simulator(tmp_path_factory.mktemp("simulator"), machines=False) as running:
        yield running


@pytest.fixture
def linode(simulator: Simulator) -> Iterator[Linode]:
    yield Linode(simulator.environment()["LINODE_TOKEN"], simulator.environment()["LINODE_URL"])
    simulator.faults.clear()


@pytest.fixture
def settings(simulator: Simulator) -> Callable[[], Any]:
    def settings() -> Any:
        environment = simulator.environment()
        return httpx.get(
            f"{environment['LINODE_URL']}/account/settings",
            headers={"Authorization": f"Bearer {environment['LINODE_TOKEN']}"},
        ).json()

    return settings


@pytest.fixture
def look(store: Store, tmp_path: Path) -> Look:
    """Examine with everything missing but what a test gives; findings by name."""

    def look(**given: Any) -> dict[str, Finding]:
        parts = {"provider": NO_TOKEN, "store": store, "clock": Clock.fast(2), "home": tmp_path}
        return {found.name: found for found in examine(**(parts | {"api_url": AWAY} | given))}

    return look


def test_a_rental_that_may_begin_has_no_fault(
    simulator: Simulator, linode: Linode, settings: Callable[[], Any], look: Look, store: Store
) -> None:
    clock = Clock()
    store.write("reaper.json", ReaperReport(time=clock.now(), deletes=True))
    url = simulator.environment()["LINODE_URL"]
    found = look(provider=linode, clock=clock, api_url=url, settings=settings)

    for name in ("token", "account", "machines", "object storage", "store", "reaper", "clock"):
        assert found[name].ok, found[name]
    assert not [one for one in found.values() if one.ok is False and one.name != "disk"]
    assert "an hour" in found["machines"].said
    assert [entry.key for entry in store.list("")] == ["reaper.json"]
    assert simulator.left() == []


def test_without_token_and_store_the_rest_is_looked_at_all_the_same(look: Look) -> None:
    found = look(store=Failure(Cause.STORE, "That is no store."))
    assert found["token"] == Finding("token", False, "There is no token.")
    assert found["store"] == Finding("store", False, "That is no store.")
    assert found["machines"] == Finding("machines", None, "Not looked at: see token.")
    assert found["reaper"] == Finding("reaper", None, "Not looked at: see store.")
    assert found["SSH"].ok is None
    assert list(found)[-1] == "rehearsal"


@pytest.mark.parametrize(
    ("fault", "limits", "said"),
    [
        ("expired_token", {}, "LINODE_TOKEN"),
        ("missing_scope", {"scope": "volumes:read_write"}, "volumes:read_write"),
        ("restricted_user", {}, "restricted"),
    ],
)
def test_a_token_that_does_not_reach_is_found(
    simulator: Simulator,
    linode: Linode,
    look: Look,
    fault: str,
    limits: dict[str, str],
    said: str,
) -> None:
    simulator.faults.add(fault, **limits)
    found = look(provider=linode)
    assert found["token"].ok is False
    assert said in found["token"].said
    assert found["rehearsal"].name == "rehearsal"


def test_a_region_that_does_not_exist_is_found(linode: Linode, look: Look) -> None:
    found = look(provider=linode, region="mars-1")["machines"]
    assert found.ok is False
    assert "mars-1" in found.said


@pytest.mark.parametrize(
    ("plan", "ok", "said"),
    [
        ("g2-gpu-rtx4000a1-s", False, "None of the offers is free now"),
        ("g6-nanode-1", None, "does not say whether"),  # no list of stock names such a plan
    ],
)
def test_a_machine_that_is_not_free_is_told(
    linode: Linode, look: Look, plan: str, ok: bool | None, said: str
) -> None:
    found = look(provider=linode, plan=plan, region="us-east")["machines"]
    assert found.ok is ok
    assert said in found.said


def test_prices_that_nobody_knows_are_found(
    simulator: Simulator, linode: Linode, look: Look
) -> None:
    simulator.faults.add("price_zero")
    found = look(provider=linode)["machines"]
    assert found.ok is False
    assert "price" in found.said


@pytest.mark.parametrize(
    ("changed", "name", "said"),
    [
        ({"backups_enabled": True}, "account", "Backup Auto Enrollment adds its price"),
        ({"managed": True}, "account", "Linode Managed adds its price"),
        ({"object_storage": "disabled"}, "object storage", "not active"),
        ({"object_storage": "suspended"}, "object storage", "suspended"),
    ],
)
def test_settings_that_cost_or_hinder_are_found(
    settings: Callable[[], Any], look: Look, changed: dict[str, Any], name: str, said: str
) -> None:
    found = look(settings=lambda: settings() | changed)[name]
    assert found.ok is False
    assert said in found.said
    assert found.cure


def test_what_breaks_unforeseen_is_a_finding_and_shows_nothing(look: Look) -> None:
    def broken() -> Any:
        raise RuntimeError("hunter2")

    found = look(settings=broken)
    assert found["account"] == Finding("account", False, "Could not be looked at (RuntimeError).")
    assert found["disk"].said


def test_a_bucket_is_tried(rgw: RGW, look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in rgw.environment().items():
        monkeypatch.setenv(name, value)
    bucket = rgw.create_bucket("doctor-test")

    assert look(store=Store.open(f"s3://{bucket}/store"))["store"].ok

    missing = look(store=Store.open("s3://doctor-missing"))["store"]
    assert missing.ok is False
    assert "doctor-missing does not exist; create it" in missing.said


def test_a_folder_serves_a_rehearsal_only(look: Look, store: Store) -> None:
    assert look(api_url="http://127.0.0.1:9/v4")["store"].ok
    away = look()["store"]
    assert away.ok is False
    assert "s3://" in away.cure
    assert list(store.list("")) == []


@pytest.mark.parametrize(
    ("minutes", "deletes", "ok"), [(1, True, True), (20, True, False), (1, False, False)]
)
def test_a_reaper_has_to_look_lately_and_to_delete(
    look: Look, store: Store, minutes: float, deletes: bool, ok: bool
) -> None:
    clock = Clock()
    time = clock.now() - timedelta(minutes=minutes)
    store.write("reaper.json", ReaperReport(time=time, deletes=deletes))
    assert look(clock=clock, api_url="http://127.0.0.1:9/v4")["reaper"].ok is ok


class _Answers(BaseHTTPRequestHandler):
    """Tells the server's time, and knows one key of W&B."""

    date = ""

    def date_time_string(self, timestamp: float | None = None) -> str:
        return self.date or super().date_time_string(timestamp)

    def do_HEAD(self) -> None:
        self.send_response(404)
        self.end_headers()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        known = "Basic " + base64.b64encode(f"api:{KEY}".encode()).decode()
        viewer = {"username": "me"} if self.headers["Authorization"] == known else None
        body = json.dumps({"data": {"viewer": viewer}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with Served(_Answers) as http:
        yield http.url


@pytest.mark.parametrize(
    ("ahead", "ok", "said"),
    [
        (timedelta(0), True, "agree"),
        (timedelta(minutes=-4), True, "agree"),
        (timedelta(minutes=7), False, "7 minutes behind"),
        (timedelta(minutes=-7), False, "7 minutes ahead of"),
    ],
)
def test_a_clock_that_is_off_is_found(
    server: str,
    look: Look,
    monkeypatch: pytest.MonkeyPatch,
    ahead: timedelta,
    ok: bool,
    said: str,
) -> None:
    clock = Clock()
    monkeypatch.setattr(_Answers, "date", format_datetime(clock.now() + ahead, usegmt=True))
    found = look(clock=clock, api_url=f"{server}/v4")["clock"]
    assert found.ok is ok
    assert said in found.said


def test_an_api_that_does_not_answer_is_found(look: Look) -> None:
    found = look(clock=Clock(), api_url="http://127.0.0.1:9/v4")["clock"]
    assert found.ok is False
    assert "does not answer" in found.said


@pytest.mark.parametrize(
    ("network", "ok"),
    [
        ("8.8.4.4/32", None),
        ("2001:4860:4860::/64", None),
        ("192.168.1.5/32", False),
        ("100.64.3.2/32", False),
        ("0.0.0.0/0", False),
        ("8.8.4.4/8", False),
        ("home", False),
    ],
)
def test_where_a_user_comes_from_has_to_be_possible(
    look: Look, network: str, ok: bool | None
) -> None:
    found = look(ssh_from=["9.9.9.9/32", network])["SSH from"]
    assert found.ok is ok
    assert network in found.said
    assert bool(found.cure) is (ok is False)


def test_where_a_user_comes_from_has_to_be_said_but_in_a_rehearsal(look: Look) -> None:
    assert look()["SSH from"].ok is False
    assert look(api_url="http://127.0.0.1:9/v4")["SSH from"].ok


@pytest.mark.parametrize(
    ("key", "ask", "ok"),
    [
        ("", True, None),
        (KEY, False, None),
        (f"local-{KEY}", False, None),
        (KEY[:39], False, False),
        (f"{KEY} ", False, False),
        (KEY, True, True),
        ("b" * 40, True, False),
    ],
)
def test_a_key_of_wandb_is_tried_and_never_shown(
    server: str,
    look: Look,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    ask: bool,
    ok: bool | None,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_BASE_URL", server)
    found = look(ask_wandb=ask)["W&B"]
    assert found.ok is ok
    assert not key or key not in repr(found)


def test_a_disk_that_is_full_is_found(look: Look, disk: Disk) -> None:
    found = look(home=disk.folder / "not" / "there" / "yet")["disk"]
    assert found.ok is False
    assert found.cure


def test_a_rehearsal_that_is_impossible_hinders_no_rental(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    found = look()["rehearsal"]
    assert found.ok is None
    assert "Linux" in found.said
