"""Who may ask, for what, and how often."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from linode_api4 import ApiError

from infra.simulator import Simulator

_FEW = "linodes:read_only volumes:read_write"


def _ask(simulator: Simulator, token: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.Client(base_url=simulator.url, headers=headers, trust_env=False)


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}])
def test_a_wrong_token_is_refused(simulator: Simulator, headers: dict[str, str]) -> None:
    with httpx.Client(headers=headers, trust_env=False) as http:
        answer = http.get(f"{simulator.url}/linode/instances")
        assert answer.status_code == 401
        assert answer.json() == {"errors": [{"reason": "Invalid Token"}]}


def test_a_token_may_do_what_its_scopes_say(tmp_path: Path, clock: Any) -> None:
    tokens = {"few": _FEW, "all": "*"}
    with (
        Simulator(tmp_path, clock=clock, machines=False, tokens=tokens) as simulator,
        _ask(simulator, "few") as few,
        _ask(simulator, "all") as full,
    ):
        assert few.get("/linode/instances").headers["X-OAuth-Scopes"] == _FEW
        assert few.get("/volumes").status_code == 200  # who may write may read
        volume = few.post("/volumes", json={"label": "v", "region": "us-ord"}).json()["id"]
        for refused in (
            few.post("/linode/instances", json={"type": "g6-nanode-1", "region": "us-ord"}),
            few.post(f"/volumes/{volume}/attach", json={"linode_id": 1}),
            few.get("/account/events"),
            few.get("/object-storage/keys"),
        ):
            assert refused.status_code == 401
            assert "not authorized" in refused.json()["errors"][0]["reason"]
        assert few.get("/profile").status_code == few.get("/regions").status_code == 200
        assert full.get("/account/events").headers["X-OAuth-Scopes"] == "*"


def test_limits_are_shown_and_enforced_where_wanted(tmp_path: Path, clock: Any) -> None:
    order = {"type": "g6-nanode-1", "region": "us-ord", "interface_generation": "legacy_config"}
    with (
        Simulator(tmp_path, clock=clock, machines=False, rate_limits=True) as simulator,
        _ask(simulator, simulator.token) as http,
    ):
        answers = [
            http.post("/linode/instances", json={**order, "label": f"many-{number}"})
            for number in range(21)
        ]
        assert [answer.status_code for answer in answers] == [200] * 20 + [429]
        assert answers[0].headers["X-RateLimit-Limit"] == "20"
        assert answers[0].headers["X-RateLimit-Remaining"] == "19"
        assert answers[20].json() == {"errors": [{"reason": "Too many requests"}]}
        assert answers[20].headers["Retry-After"] == "15"
        clock.move(15)
        assert http.post("/linode/instances", json=order).status_code == 200


def test_a_restricted_user_cannot_tag(account: Any) -> None:
    account.simulator.faults.add("restricted_user")
    assert account.linode.profile().restricted
    with pytest.raises(ApiError, match="unrestricted User") as refused:
        account.instance(tags=["voc-train"])
    assert refused.value.status == 403
    account.instance()


def test_unknown_paths_and_methods(account: Any) -> None:
    for method, path, status in (("GET", "/nothing", 404), ("PATCH", "/volumes", 405)):
        answer = account.http.request(method, path)
        assert answer.status_code == status
        assert answer.json()["errors"][0]["reason"]
    assert account.http.post("/volumes", content=b"{").status_code == 400
    beta = account.simulator.url.replace("/v4", "/v4beta")
    assert account.http.get(f"{beta}/regions").status_code == 200


def test_foreign_things_that_somebody_would_change_are_noted(account: Any) -> None:
    id = account.simulator.add_foreign("volume", "voc-train-look-alike", ["voc-train"])
    account.get(f"/volumes/{id}")
    assert account.simulator.touched == []
    assert account.simulator.bill() == account.simulator.left() == []
    account.linode.delete(f"/volumes/{id}")
    assert account.simulator.touched == ["DELETE /volumes/{id:int}: volume voc-train-look-alike"]


def test_object_storage_keys_show_their_secret_once(account: Any) -> None:
    bucket = account.linode.post(
        "/object-storage/buckets", data={"label": "my-bucket", "region": "us-ord"}
    )
    assert bucket["s3_endpoint"] == "us-ord-1.linodeobjects.com"
    access = {"region": "us-ord", "bucket_name": "my-bucket", "permissions": "read_write"}
    key = account.linode.object_storage.keys_create("key", bucket_access=[access])
    shown = account.get(f"/object-storage/keys/{key.id}")
    assert key.limited
    assert key.secret_key != shown["secret_key"] == "[REDACTED]"
    assert shown["regions"][0]["s3_endpoint"] == "us-ord-1.linodeobjects.com"
    assert not account.linode.object_storage.keys_create("all").limited
    assert account.linode.object_storage.keys_create("none", bucket_access=[]).limited
    key.delete()
    assert len(account.get("/object-storage/keys")["data"]) == 2
    with pytest.raises(ApiError, match="does not support Object Storage"):
        account.get("/object-storage/buckets/us-central/my-bucket")


def test_an_s3_server_is_listed_asked_and_cleared(tmp_path: Path, clock: Any) -> None:
    class Server:
        endpoint = "https://127.0.0.1:4433"
        keys: dict[str, Any]

        def __init__(self) -> None:
            self.keys = {}

        def create_key(self, label: str, access: Any) -> tuple[str, str]:
            self.keys[f"access-{label}"] = access
            return f"access-{label}", "secret"

        def delete_key(self, access_key: str) -> None:
            self.keys.pop(access_key, None)

    server: Any = Server()
    with (
        Simulator(tmp_path, clock=clock, machines=False, object_storage=server) as simulator,
        _ask(simulator, simulator.token) as http,
    ):
        rows = http.get("/object-storage/endpoints").json()["data"]
        assert {"us-ord": "127.0.0.1:4433"}.items() <= {
            row["region"]: row["s3_endpoint"] for row in rows
        }.items()
        rule = {"region": "us-ord", "bucket_name": "b", "permissions": "read_write"}
        keys = "/object-storage/keys"
        first = http.post(keys, json={"label": "one", "bucket_access": [rule]}).json()
        http.post(keys, json={"label": "two"})
        assert (first["access_key"], first["secret_key"]) == ("access-one", "secret")
        assert server.keys == {"access-one": [("b", "read_write")], "access-two": None}
        http.delete(f"{keys}/{first['id']}")
        assert list(server.keys) == ["access-two"]
    assert server.keys == {}
