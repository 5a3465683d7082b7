"""The simulator's answers beside recorded ones of the real API, and requests beside its schema."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from infra.simulator import Simulator
from infra.simulator.answers import without_nulls
from infra.simulator.schema import Schema

# What recordings have that a rehearsal has no use for.
_LEFT_OUT = {"details", "time_remaining", "message"}
_RULES = {
    "inbound": [
        {
            "action": "ACCEPT",
            "protocol": "TCP",
            "ports": "22",
            "addresses": {"ipv4": ["0.0.0.0/0"], "ipv6": ["::/0"]},
            "label": "ssh",
        }
    ],
    "inbound_policy": "DROP",
    "outbound": [],
    "outbound_policy": "ACCEPT",
}


def _interactions(folder: Path, pattern: str = "*") -> Iterator[tuple[str, str, Any]]:
    """Method, path and answer of everything recorded that went well."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for file in sorted((folder / "recordings").glob(f"{pattern}.yaml")):
        for entry in yaml.load(file.read_text(), loader)["interactions"]:
            if entry["response"]["code"] == 200:
                path = re.sub(r"^.*/v4(beta)?", "", entry["request"]["url"]).partition("?")[0]
                yield entry["request"]["method"], path, json.loads(entry["response"]["body"])


@pytest.fixture(scope="module")
def traffic(recorded: Path) -> list[tuple[str, str, Any]]:
    return list(_interactions(recorded))


def _types(value: Any, path: str, found: dict[str, set[str]]) -> dict[str, set[str]]:
    """The types at every place of an answer; whole numbers count as numbers."""
    kind = {int: "number", float: "number"}.get(type(value), type(value).__name__)
    found.setdefault(path, set()).add(kind)
    if isinstance(value, dict):
        for name, part in value.items():
            _types(part, f"{path}.{name}", found)
    elif isinstance(value, list):
        for part in value:
            _types(part, f"{path}[]", found)
    return found


def _differences(ours: Any, theirs: list[Any]) -> list[str]:
    """Where an answer lacks what every recorded one has, or has it in a type never recorded."""
    recorded: dict[str, set[str]] = {}
    keys: list[set[str]] = []
    for answer in theirs:
        keys.append(set(_types(answer, "", {})))
        _types(answer, "", recorded)
    own = _types(ours, "", {})
    wanted = set.intersection(*keys)
    lacking = [f"{path} is missing" for path in sorted(wanted - set(own))]
    wrong = [
        f"{path} is {kinds}, recorded {recorded[path]}"
        for path, kinds in sorted(own.items())
        if path in recorded and not kinds <= recorded[path]
    ]
    return lacking + wrong


def _recorded_rows(traffic: list[tuple[str, str, Any]], method: str, path: str) -> list[Any]:
    """The recorded objects of a kind: answers, or the rows of pages."""
    answers = [
        body for verb, where, body in traffic if verb == method and re.fullmatch(path, where)
    ]
    assert answers, f"nothing recorded for {method} {path}"
    return [row for body in answers for row in body.get("data", [body])]


@pytest.fixture
def ours(account: Any, clock: Any) -> dict[str, Any]:
    """One of everything, as the simulator shows it."""
    http = account.http
    firewall = http.post(
        "/networking/firewalls", json={"label": "fire", "rules": _RULES, "tags": ["abc"]}
    ).json()
    instance = account.running(firewall=firewall["id"], tags=["voc-train"])
    volume = http.post("/volumes", json={"label": "disk", "region": "us-ord"}).json()
    http.post(f"/volumes/{volume['id']}/attach", json={"linode_id": instance.id})
    clock.move(2)
    script = {"label": "script", "script": "#!/bin/bash\n", "images": ["linode/ubuntu24.04"]}
    bucket = {"label": "a-bucket", "region": "us-east"}
    rule = {"region": "us-east", "bucket_name": "a-bucket", "permissions": "read_write"}
    device = http.get(f"/networking/firewalls/{firewall['id']}/devices").json()["data"][0]
    key = {"label": "key", "bucket_access": [rule], "regions": ["us-east"]}
    return {
        "instance": account.get(f"/linode/instances/{instance.id}"),
        "volume": account.get(f"/volumes/{volume['id']}"),
        "firewall": account.get(f"/networking/firewalls/{firewall['id']}"),
        "device": device,
        "firewall settings": account.get("/networking/firewalls/settings"),
        "script": http.post("/linode/stackscripts", json=script).json(),
        "bucket": http.post("/object-storage/buckets", json=bucket).json(),
        "key": http.post("/object-storage/keys", json=key).json(),
        "event": account.get("/account/events")["data"][0],
        "settings": account.get("/account/settings"),
        "type": account.get("/linode/types/g6-nanode-1"),
        "volume type": account.get("/volumes/types")["data"][0],
        "region": account.get("/regions/us-ord"),
        "stock": account.get("/regions/availability")["data"][0],
        "quota": account.get("/object-storage/quotas")["data"][0],
    }


def test_answers_look_like_recorded_ones(
    ours: dict[str, Any], traffic: list[tuple[str, str, Any]]
) -> None:
    recorded = {
        "instance": ("GET", r"/linode/instances/\d+"),
        "volume": ("GET", r"/volumes/\d+"),
        "firewall": ("GET", r"/networking/firewalls/\d+"),
        "device": ("GET", r"/networking/firewalls/\d+/devices/\d+"),
        "firewall settings": ("GET", "/networking/firewalls/settings"),
        "script": ("POST", "/linode/stackscripts"),
        "bucket": ("POST", "/object-storage/buckets"),
        "key": ("POST", "/object-storage/keys"),
        "event": ("GET", "/account/events"),
        "settings": ("GET", "/account/settings"),
        "type": ("GET", "/linode/types"),
        "volume type": ("GET", "/volumes/types"),
        "region": ("GET", "/regions"),
        "stock": ("GET", "/regions/availability"),
        "quota": ("GET", "/object-storage/quotas"),
    }
    differences = {
        name: _differences(ours[name], _recorded_rows(traffic, *where))
        for name, where in recorded.items()
    }
    assert {name: found for name, found in differences.items() if found} == {}


def test_the_comparer_sees_what_differs() -> None:
    theirs = [{"a": 1, "b": None}, {"a": 2.0, "b": "x"}]
    assert _differences({"a": 3, "b": None, "c": 1}, theirs) == []
    assert _differences({"b": "x"}, theirs) == [".a is missing"]
    assert _differences({"a": None, "b": "x"}, theirs) != []


def test_prices_are_the_recorded_ones(account: Any, traffic: list[tuple[str, str, Any]]) -> None:
    recorded = {
        row["id"]: (row["price"], row["vcpus"], row["memory"], row["disk"], row["gpus"])
        for row in _recorded_rows(traffic, "GET", "/linode/types")
    }
    own = {
        row["id"]: (row["price"], row["vcpus"], row["memory"], row["disk"], row["gpus"])
        for row in account.get("/linode/types")["data"]
    }
    shared = own.keys() & recorded.keys()
    assert len(shared) > 10
    assert {id: own[id] for id in shared} == {id: recorded[id] for id in shared}


def _collapsed(states: list[Any]) -> list[Any]:
    return [state for n, state in enumerate(states) if n == 0 or state != states[n - 1]]


def test_the_recorded_life_of_a_machine_and_its_disk(
    account: Any, clock: Any, recorded: Path
) -> None:
    """The same requests in the same order lead through the same states."""
    theirs: dict[str, list[Any]] = {"instance": [], "volume": []}
    file = "TestIAM_GetIOReadyForAttachedDetachedVolume"
    for method, path, body in _interactions(recorded, file):
        if re.fullmatch(r"/linode/instances(/\d+)?", path) and method != "DELETE":
            theirs["instance"].append(body["status"])
        elif re.fullmatch(r"/volumes(/\d+(/attach)?)?", path) and method != "DELETE":
            state = (body["status"], body["linode_id"] is not None, body["io_ready"])
            theirs["volume"].append(state)

    def volume_state(body: Any) -> tuple[Any, ...]:
        return body["status"], body["linode_id"] is not None, body["io_ready"]

    instance = account.instance()
    ours: dict[str, list[Any]] = {"instance": [instance.status], "volume": []}
    for _ in range(14):
        clock.move(5)
        ours["instance"].append(account.status(instance.id))
    http = account.http
    volume = http.post("/volumes", json={"label": "disk", "region": "us-ord", "tags": None}).json()
    path = f"/volumes/{volume['id']}"
    attached = http.post(f"{path}/attach", json={"linode_id": instance.id}).json()
    ours["volume"] += [volume_state(volume), volume_state(attached)]
    clock.move(5)
    ours["volume"].append(volume_state(http.get(path).json()))
    assert http.post(f"{path}/detach", json={}).json() == {}
    clock.move(10)
    ours["volume"].append(volume_state(http.get(path).json()))
    assert http.delete(path).json() == {}
    assert {kind: _collapsed(states) for kind, states in ours.items()} == {
        kind: _collapsed(states) for kind, states in theirs.items()
    }


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory, recorded: Path) -> Iterator[Simulator]:
    (spec,) = recorded.glob("openapi-*.json")
    with Simulator(tmp_path_factory.mktemp("strict"), machines=False, spec=spec) as simulator:
        yield simulator


@pytest.fixture
def checked(strict: Simulator) -> Simulator:
    strict.violations.clear()
    return strict


@pytest.mark.parametrize(
    ("path", "body", "wrong"),
    [
        ("/volumes", {"label": "disk", "region": "us-ord", "colour": "red"}, "colour"),
        ("/volumes", {"label": "disk", "region": "us-ord", "size": "20"}, "size"),
        ("/volumes", {"region": "us-ord"}, "label"),
        ("/linode/instances", {"type": "g6-nanode-1", "region": "us-ord", "tags": "a"}, "tags"),
        ("/linode/instances", {"type": "g6-nanode-1"}, "region"),
        ("/linode/instances", {"type": "t", "region": "r", "metadata": {"x": 1}}, "metadata"),
        ("/linode/stackscripts", {"label": "abc", "script": "#!"}, "images"),
        ("/networking/firewalls", {"label": "fire", "rules": {"inbound": []}}, "inbound_policy"),
        ("/object-storage/keys", {"label": "k", "bucket_access": [{"bucket": "b"}]}, "bucket"),
    ],
)
def test_what_the_official_schema_forbids_is_refused_and_remembered(
    checked: Simulator, path: str, body: dict[str, Any], wrong: str
) -> None:
    headers = {"Authorization": f"Bearer {checked.token}"}
    answer = httpx.post(f"{checked.url}{path}", json=body, headers=headers, trust_env=False)
    assert answer.status_code == 400
    assert any(wrong in violation for violation in checked.violations)


def test_what_is_newer_than_the_schema_is_allowed(checked: Simulator) -> None:
    headers = {"Authorization": f"Bearer {checked.token}"}
    with httpx.Client(base_url=checked.url, headers=headers, trust_env=False) as http:
        orders = {
            "/linode/instances": {
                "type": "g6-nanode-1",
                "region": "us-ord",
                "label": "newer",
                "image": "linode/ubuntu24.04",
                "authorized_keys": ["ssh-ed25519 AAAA a"],
                "interface_generation": "legacy_config",
                "firewall_id": -1,
                "disk_encryption": "enabled",
                "kernel": "linode/grub2",
                "backups_enabled": False,
                "metadata": {"user_data": "I2Nsb3VkLWNvbmZpZwo="},
                "private_ip": None,
            },
            "/volumes": {"label": "disk", "region": "us-ord", "linode_id": None, "tags": ["abc"]},
            "/object-storage/buckets": {"label": "bucket", "region": "us-ord"},
        }
        for path, body in orders.items():
            assert http.post(path, json=body).status_code == 200
        assert http.post(
            "/networking/firewalls", json={"label": "fire", "rules": _RULES}
        ).is_success
    assert checked.violations == []


def test_recorded_requests_keep_to_the_schema_and_its_exceptions(recorded: Path) -> None:
    (spec,) = recorded.glob("openapi-*.json")
    schema = Schema(spec)
    wrong = []
    for file in sorted((recorded / "recordings").glob("*.yaml")):
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        for entry in yaml.load(file.read_text(), loader)["interactions"]:
            request = entry["request"]
            path = re.sub(r"^.*/v4(beta)?", "", request["url"]).partition("?")[0]
            path = re.sub(r"\d+", "{}", path)
            ours = ("/linode/instances", "/volumes", "/volumes/{}/attach", "/linode/stackscripts")
            ours += ("/networking/firewalls", "/object-storage/keys", "/object-storage/buckets")
            if request["body"] and path in ours and entry["response"]["code"] == 200:
                body = without_nulls(json.loads(request["body"]))
                wrong += schema.violations(request["method"], path, body)
    assert wrong == []
