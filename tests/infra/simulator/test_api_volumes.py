"""Volumes: what takes time, and what is refused."""

from typing import Any

import pytest
from linode_api4 import ApiError


def _volume(account: Any, label: str = "disk", **more: Any) -> Any:
    return account.linode.volumes.create(label, region=more.pop("region", "us-ord"), **more)


def _shown(account: Any, volume: Any) -> tuple[Any, ...]:
    view = account.get(f"/volumes/{volume.id}")
    return view["status"], view["linode_id"], view["io_ready"]


def test_attach_and_detach_take_their_time(account: Any, clock: Any) -> None:
    instance = account.running()
    volume = _volume(account, size=15, tags=["voc-train"])
    assert (volume.status, volume.linode_id) == ("creating", None)
    attached = account.linode.post(f"/volumes/{volume.id}/attach", data={"linode_id": instance.id})
    assert (attached["linode_id"], attached["io_ready"]) == (instance.id, False)
    clock.move(2)
    assert _shown(account, volume) == ("active", instance.id, True)
    volume.detach()
    assert _shown(account, volume) == ("active", instance.id, True)
    clock.move(6)
    assert _shown(account, volume) == ("active", None, False)
    volume.delete()
    assert account.get("/volumes")["data"] == []


def test_a_disk_on_its_way_keeps_its_machine_busy(account: Any, clock: Any) -> None:
    instance = account.running()
    first, second = _volume(account, "first"), _volume(account, "second")
    account.linode.post(f"/volumes/{first.id}/attach", data={"linode_id": instance.id})
    for volume in (first, second):
        with pytest.raises(ApiError, match=r"already attached|Linode busy\."):
            account.linode.post(f"/volumes/{volume.id}/attach", data={"linode_id": instance.id})
    with pytest.raises(ApiError, match="Linode busy."):
        first.detach()
    with pytest.raises(ApiError, match="Linode busy."):
        instance.shutdown()
    clock.move(2)
    with pytest.raises(ApiError, match="is already attached"):
        account.linode.post(f"/volumes/{first.id}/attach", data={"linode_id": instance.id})


def test_an_attached_disk_is_not_deleted(account: Any, clock: Any) -> None:
    instance = account.running()
    volume = _volume(account)
    account.linode.post(f"/volumes/{volume.id}/attach", data={"linode_id": instance.id})
    clock.move(2)
    with pytest.raises(ApiError, match="detached"):
        volume.delete()


def test_deleting_a_machine_sets_its_disks_free(account: Any, clock: Any) -> None:
    instance = account.running()
    volume = _volume(account)
    account.linode.post(f"/volumes/{volume.id}/attach", data={"linode_id": instance.id})
    clock.move(2)
    account.status(instance.id)
    instance.delete()
    clock.move(5)
    assert _shown(account, volume) == ("active", None, False)


def test_a_disk_is_ready_only_while_its_machine_runs(account: Any, clock: Any) -> None:
    instance = account.running()
    volume = _volume(account)
    instance.shutdown()
    clock.move(28)
    account.linode.post(f"/volumes/{volume.id}/attach", data={"linode_id": instance.id})
    clock.move(2)
    assert _shown(account, volume) == ("active", instance.id, False)
    instance.boot()
    clock.move(24)
    assert _shown(account, volume) == ("active", instance.id, True)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"size": 9}, "10-16384"),
        ({"label": "x" * 33}, "1-32"),
        ({"label": "a.b"}, "not allowed"),
        ({"region": "nowhere"}, "region is not valid"),
    ],
)
def test_disks_that_cannot_be(shared_account: Any, wanted: dict[str, Any], reason: str) -> None:
    with pytest.raises(ApiError, match=reason):
        _volume(shared_account, **wanted)


def test_a_disk_stays_in_its_region(account: Any) -> None:
    instance = account.running()
    volume = _volume(account, region="fr-par")
    with pytest.raises(ApiError, match="same region"):
        account.linode.post(f"/volumes/{volume.id}/attach", data={"linode_id": instance.id})
    with pytest.raises(ApiError, match="Label must be unique"):
        _volume(account)
