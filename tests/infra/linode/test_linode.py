"""Renting, watching and deleting, against the Linode that lives on this computer."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from infra.clock import Clock
from infra.linode import Linode
from infra.linode.api import Timeouts
from infra.provider import (
    BucketKey,
    Endpoint,
    FirewallOrder,
    InstanceOrder,
    KeyOrder,
    Kind,
    NoCapacity,
    Order,
    Refused,
    ScriptOrder,
    Thing,
    Unauthorised,
    Unclear,
    VolumeOrder,
)
from infra.simulator import Simulator
from servers.scripted import Reply, ScriptedServer
from stepped_clock import SteppedClock

TAGS = ("voc-train", "voc-train:run:r", "voc-train:until:20261122T000000Z")
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUMMZX7wHTNNjhpKTAz7qSfFUC5ZUoPnMuwqtPkIMMC x"
LINODE = Path(__file__).parents[3] / "shared" / "linode"
SPEC = Path(os.environ.get("VOC_TRAIN_TEST_LINODE", LINODE)) / "openapi-v4.189.0.json"


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulator]:
    """One on which an hour passes in a second; the official spec is held against every request."""
    spec = SPEC if SPEC.is_file() else None
    with Simulator(tmp_path, clock=Clock.fast(3600), machines=False, spec=spec) as simulator:
        yield simulator
        assert simulator.violations == []


@pytest.fixture
def linode(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> Linode:
    for name, value in simulator.environment().items():
        monkeypatch.setenv(name, value)
    return Linode.from_environment(simulator.clock)


def firewall() -> FirewallOrder:
    return FirewallOrder("voc-train-r-f", TAGS, ("203.0.113.7/32", "2001:db8::/64"))


def script() -> ScriptOrder:
    text = '#!/bin/bash\n# <UDF name="requirements" label="pinned requirements" />\n'
    return ScriptOrder("voc-train-gpu-0123456789ab", text, "sets a machine up")


def instance(firewall: Thing, script: Thing | None = None) -> InstanceOrder:
    return InstanceOrder(
        label="voc-train-r-t1",
        tags=TAGS,
        plan="g2-gpu-rtx4000a1-s",
        region="us-ord",
        authorized_key=PUBLIC_KEY,
        user_data="#cloud-config\n",
        firewall=firewall.id,
        script=script.id if script else None,
        script_data={"requirements": "torch==2.15.0"} if script else {},
    )


def volume() -> VolumeOrder:
    return VolumeOrder("voc-train-r-v", TAGS, "us-ord", 40)


def key() -> KeyOrder:
    return KeyOrder("voc-train-r-k", "a-bucket", "https://us-ord-1.linodeobjects.com")


def create(linode: Linode, order: Order) -> Thing:
    made = linode.create(order)
    assert isinstance(made, Thing)
    return made


def wait(
    linode: Linode, simulator: Simulator, thing: Thing, until: Callable[[Thing], bool]
) -> Thing:
    """Look again until it is so; an hour of the clock at most."""
    for _ in range(360):
        seen = linode.get(thing.kind, thing.id)
        assert seen is not None
        if until(seen):
            return seen
        simulator.clock.sleep(10)
    raise AssertionError(f"{seen} never became what it should")


def remove(linode: Linode, simulator: Simulator, thing: Thing) -> None:
    """As the contract has it: call again until a listing shows it gone."""
    for _ in range(60):
        with suppress(Unclear):
            linode.delete(thing.kind, thing.id)
        if not linode.list(thing.kind, label=thing.label):
            return
        simulator.clock.sleep(10)
    raise AssertionError(f"{thing} is still there")


def test_a_machine_is_rented_and_given_back(simulator: Simulator, linode: Linode) -> None:
    fence, recipe = create(linode, firewall()), create(linode, script())
    machine = create(linode, instance(fence, recipe))
    port = int(simulator.environment()["VOC_TRAIN_SSH_PORT"])

    assert not machine.ready
    seen = wait(linode, simulator, machine, lambda thing: thing.ready)

    assert (seen.label, seen.tags) == ("voc-train-r-t1", frozenset(TAGS))
    assert (seen.plan, seen.region, seen.state) == ("g2-gpu-rtx4000a1-s", "us-ord", "running")
    assert seen.endpoint is not None
    assert seen.endpoint.host.startswith("127.")
    assert seen.endpoint == Endpoint(
        seen.endpoint.host, port, simulator.environment()["VOC_TRAIN_SSH_USER"]
    )
    assert seen.created is not None
    assert timedelta() <= simulator.clock.now() - seen.created < timedelta(hours=12)
    assert (linode.price(seen), linode.price(fence), linode.price(recipe)) == (0.52, 0, 0)
    for thing in (machine, recipe, fence):
        remove(linode, simulator, thing)
        assert linode.get(thing.kind, thing.id) is None
        linode.delete(thing.kind, thing.id)
    assert simulator.left() == []


def test_a_volume_moves_between_machines_that_are_off(simulator: Simulator, linode: Linode) -> None:
    machine = create(linode, instance(create(linode, firewall())))
    disk = create(linode, volume())
    assert linode.price(disk) == pytest.approx(40 * 0.00015)
    wait(linode, simulator, machine, lambda thing: thing.ready)

    # Busy with one after the other, so that each has to wait.
    linode.shut_down(machine.id)
    linode.attach(disk.id, machine.id)
    wait(linode, simulator, machine, lambda thing: thing.state == "offline")
    linode.shut_down(machine.id)
    attached = wait(linode, simulator, disk, lambda thing: thing.attached_to == machine.id)
    linode.attach(disk.id, machine.id)
    linode.detach(disk.id)
    wait(linode, simulator, disk, lambda thing: thing.attached_to is None)
    linode.detach(disk.id)
    linode.boot(machine.id)
    wait(linode, simulator, machine, lambda thing: thing.ready)
    linode.boot(machine.id)
    linode.attach(disk.id, machine.id)

    assert attached.size_gb == 40
    assert wait(linode, simulator, disk, lambda thing: thing.ready).attached_to == machine.id


def test_a_volume_is_detached_before_it_is_deleted(simulator: Simulator, linode: Linode) -> None:
    machine = create(linode, instance(create(linode, firewall())))
    disk = create(linode, volume())
    wait(linode, simulator, machine, lambda thing: thing.ready)
    linode.attach(disk.id, machine.id)
    wait(linode, simulator, disk, lambda thing: thing.ready)

    remove(linode, simulator, disk)

    assert [thing.label for thing in simulator.left() if thing.label == disk.label] == []


def test_a_volume_that_stays_empty_is_not_ready(simulator: Simulator, linode: Linode) -> None:
    disk = create(linode, volume())

    assert not wait(linode, simulator, disk, lambda thing: thing.state == "active").ready
    with pytest.raises(Refused):
        linode.attach(disk.id, 1)


@pytest.mark.parametrize("path", ["/linode/types", "/regions", "/regions/availability"])
def test_a_catalogue_that_makes_no_sense_is_not_guessed_at(path: str) -> None:
    whole = {
        "/linode/types": {"id": "gpu", "gpus": 1, "label": "", "vcpus": 1, "memory": 1, "disk": 1},
        "/regions": {"id": "us-ord", "status": "ok", "capabilities": []},
        "/regions/availability": {"region": "us-ord", "plan": "gpu", "available": True},
    }
    with ScriptedServer() as server:
        for each, item in {**whole, path: {"id": 1}}.items():
            server.on("GET", each, Reply(body={"data": [item], "pages": 1, "results": 1}))

        with pytest.raises(Unclear, match="catalogue"):
            Linode("token", server.url, clock=SteppedClock()).offers()


@pytest.mark.parametrize(
    ("status", "attached_to", "io_ready", "ready"),
    [
        ("active", 5, True, True),
        ("active", 5, False, False),
        ("active", None, True, False),
        ("creating", 5, True, False),
    ],
)
def test_a_volume_is_ready_when_it_can_be_written(
    status: str, attached_to: int | None, io_ready: bool, ready: bool
) -> None:
    disk = {"status": status, "linode_id": attached_to, "io_ready": io_ready}
    with ScriptedServer() as server:
        server.on("GET", "/volumes/7", Reply(body={"id": 7, "label": "v", **disk}))

        seen = Linode("token", server.url).get(Kind.VOLUME, 7)

    assert seen is not None
    assert seen.ready is ready


def test_a_script_comes_back_as_it_was(linode: Linode) -> None:
    order = script()
    made = create(linode, order)

    (seen,) = linode.list(Kind.SCRIPT, label=order.label)

    assert (seen.id, seen.text, seen.description) == (made.id, order.script, order.description)


def test_a_key_opens_one_bucket_and_hides_its_secret(simulator: Simulator, linode: Linode) -> None:
    made = linode.create(key())

    assert isinstance(made, BucketKey)
    assert made.secret_key
    assert made.secret_key not in repr(made) + str(made) + str(linode.list(Kind.KEY))
    assert [thing.id for thing in linode.list(Kind.KEY, label="voc-train-r-k")] == [made.thing.id]
    remove(linode, simulator, made.thing)


@pytest.mark.parametrize(
    "endpoint", ["https://s3.example.com", "http://127.0.0.1:9000", "us-ord-1.linodeobjects.com"]
)
def test_a_bucket_elsewhere_gets_no_key(linode: Linode, endpoint: str) -> None:
    with pytest.raises(Refused, match="AWS_ENDPOINT_URL"):
        linode.create(KeyOrder("k", "a-bucket", endpoint))

    assert linode.list(Kind.KEY) == []


def test_the_best_offer_can_be_rented(linode: Linode) -> None:
    best = linode.offers()[0]

    assert best.available
    assert (best.plan, best.dollars_per_hour) == ("g2-gpu-rtx4000a1-s", 0.52)
    assert {offer.region for offer in linode.offers(region="us-ord")} == {"us-ord"}
    assert {offer.gpus for offer in linode.offers(plan="g6-nanode-1")} == {0}


def test_no_capacity_leaves_nothing(simulator: Simulator, linode: Linode) -> None:
    fence = create(linode, firewall())
    simulator.faults.add("no_capacity", plan="g2-gpu-rtx4000a1-s", region="us-ord")

    with pytest.raises(NoCapacity):
        linode.create(instance(fence))

    assert linode.list(Kind.INSTANCE) == []


def test_a_create_that_was_heard_and_not_answered_is_found_by_its_label(
    simulator: Simulator, linode: Linode
) -> None:
    simulator.faults.add("acted_502", method="POST", path="/networking/firewalls", times=1)

    with pytest.raises(Unclear):
        linode.create(firewall())
    with pytest.raises(Unclear, match="[Uu]nique"):
        linode.create(firewall())

    assert len(linode.list(Kind.FIREWALL, label="voc-train-r-f", tag=TAGS[1])) == 1


@pytest.mark.parametrize("effect", ["price_zero", "price_none"])
def test_a_price_that_is_none_is_refused(simulator: Simulator, linode: Linode, effect: str) -> None:
    simulator.faults.add(effect, plan="*gpu*")

    with pytest.raises(Refused, match="no price"):
        linode.offers()


def test_more_than_a_page_is_listed_whole_and_only_what_was_asked_for(
    simulator: Simulator, linode: Linode
) -> None:
    ours = create(linode, firewall())
    for number in range(520):
        simulator.add_foreign(
            "firewall", f"voc-train-r-f{number}", ["voc-train", f"other:{number}"]
        )
    simulator.add_foreign("firewall", "Voc-Train-R-F", ["VOC-TRAIN:RUN:R"])

    assert len(linode.list(Kind.FIREWALL)) == 522
    assert [thing.id for thing in linode.list(Kind.FIREWALL, label="voc-train-r-f")] == [ours.id]
    assert [thing.id for thing in linode.list(Kind.FIREWALL, tag="voc-train:run:r")] == [ours.id]
    assert simulator.touched == []


def test_scripts_of_others_are_never_listed(simulator: Simulator, linode: Linode) -> None:
    ours = create(linode, script())
    simulator.add_foreign("stackscript", ours.label)

    assert [thing.id for thing in linode.list(Kind.SCRIPT, label=ours.label)] == [ours.id]
    assert [thing.id for thing in linode.list(Kind.SCRIPT)] == [ours.id]


@pytest.mark.parametrize("kind", list(Kind))
def test_a_filter_that_was_not_heard_lists_nothing_else(kind: Kind) -> None:
    paths = {
        Kind.INSTANCE: "/linode/instances",
        Kind.VOLUME: "/volumes",
        Kind.FIREWALL: "/networking/firewalls",
        Kind.KEY: "/object-storage/keys",
        Kind.SCRIPT: "/linode/stackscripts",
    }
    known = {"ipv4": [], "linode_id": None, "tags": ["voc-train:run:rr"]}
    items = [
        {"id": 1, "label": "voc-train-r-t10", "mine": True, **known},
        {"id": 2, "label": "voc-train-r-t1", "mine": False, **known},
    ]
    with ScriptedServer() as server:
        server.on("GET", paths[kind], Reply(body={"data": items, "pages": 1, "results": 2}))
        linode = Linode("token", server.url, clock=SteppedClock())

        labelled = [thing.id for thing in linode.list(kind, label="voc-train-r-t1")]
        tagged = linode.list(kind, tag="voc-train:run:r")

        assert labelled == ([] if kind is Kind.SCRIPT else [2])
        assert tagged == []
        for request in server.requests:
            assert set(request.query) == {"page", "page_size"}
        if kind in (Kind.INSTANCE, Kind.VOLUME, Kind.FIREWALL):
            assert [request.filter for request in server.requests] == [
                {"label": "voc-train-r-t1"},
                {"tags": "voc-train:run:r"},
            ]


def test_an_instance_is_ordered_with_all_that_an_account_might_decide_otherwise() -> None:
    body = {"id": 5, "label": "voc-train-r-t1", "ipv4": ["192.168.130.2", "203.0.113.9"]}
    fence = Thing(Kind.FIREWALL, 11, "f")
    with ScriptedServer() as server:
        server.on("POST", "/linode/instances", Reply(body=body))
        linode = Linode("token", server.url, clock=SteppedClock(), ssh_port=2222, ssh_user="me")
        made = linode.create(instance(fence))
        server.on(
            "GET", "/account/settings", Reply(body={"interfaces_for_new_linodes": "linode_only"})
        )
        linode.create(instance(fence))
        first, second = (request.body for request in server.asked("POST", "/linode/instances"))

    assert isinstance(made, Thing)
    assert made.endpoint == Endpoint("203.0.113.9", 2222, "me")
    assert first["authorized_keys"] == [PUBLIC_KEY]
    assert "root_pass" not in first
    assert first["backups_enabled"] is False
    assert first["private_ip"] is False
    assert (first["interface_generation"], first["firewall_id"]) == ("legacy_config", 11)
    assert second["interface_generation"] == "linode"
    assert [each["firewall_id"] for each in second["interfaces"]] == [11]
    assert "firewall_id" not in second


@pytest.mark.parametrize("generation", ["legacy_config_only", "linode_only"])
def test_the_firewall_stands_before_the_machine_on_any_account(
    simulator: Simulator, linode: Linode, generation: str
) -> None:
    simulator.account.settings["interfaces_for_new_linodes"] = generation
    fence = create(linode, firewall())

    machine = create(linode, instance(fence))

    url = f"{simulator.url}/networking/firewalls/{fence.id}/devices"
    seen = httpx.get(url, headers={"Authorization": f"Bearer {simulator.token}"}).json()
    assert [device["entity"]["label"] for device in seen["data"]] == [machine.label]


EVERY_SCOPE = (
    "linodes:read_write volumes:read_write firewall:read_write object_storage:read_write "
    "stackscripts:read_write account:read_only events:read_only"
)


@pytest.mark.parametrize(
    ("scopes", "missing"),
    [
        ("*", set()),
        (EVERY_SCOPE, set()),
        (EVERY_SCOPE.replace("account:read_only", "account:read_write"), set()),
        (
            "linodes:read_only events:read_only",
            {*EVERY_SCOPE.split()} - {"events:read_only"},
        ),
    ],
)
def test_all_missing_scopes_are_named_at_once(
    tmp_path: Path, scopes: str, missing: set[str]
) -> None:
    with Simulator(tmp_path, machines=False, tokens={"token": scopes}) as simulator:
        linode = Linode("token", simulator.url, timeouts=Timeouts(5, 5))

        if not missing:
            linode.check(list(Kind))
            return
        with pytest.raises(Unauthorised) as caught:
            linode.check(list(Kind))

    said = {word.strip(",;.") for word in str(caught.value).split()}
    assert said & {*EVERY_SCOPE.split()} == missing


def test_only_what_is_needed_has_to_be_reached(tmp_path: Path) -> None:
    scopes = "volumes:read_write account:read_only events:read_only"
    with Simulator(tmp_path, machines=False, tokens={"token": scopes}) as simulator:
        linode = Linode("token", simulator.url, timeouts=Timeouts(5, 5))

        linode.check([Kind.VOLUME])
        with pytest.raises(Unauthorised, match="linodes:read_write"):
            linode.check([Kind.VOLUME, Kind.INSTANCE])


def test_who_cannot_tag_is_told_before_anything_is_created(
    simulator: Simulator, linode: Linode
) -> None:
    simulator.faults.add("restricted_user")

    with pytest.raises(Unauthorised, match="restricted"):
        linode.check([Kind.INSTANCE])
    linode.check([Kind.KEY])


def test_an_expired_token_is_not_taken_for_a_missing_scope(
    simulator: Simulator, linode: Linode
) -> None:
    simulator.faults.add("expired_token")

    with pytest.raises(Unauthorised, match="expired"):
        linode.check(list(Kind))
