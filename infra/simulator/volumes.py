"""The Volumes of an account: disks that are attached, detached and outlive machines."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from infra.simulator import catalogue
from infra.simulator.account import Account
from infra.simulator.answers import JSON, Refusal, busy, invalid
from infra.simulator.operations import Call, Operation, Result, fields
from infra.simulator.things import Instance, Volume

_LABEL_SIZES = range(1, 33)
_LABEL = r"[a-zA-Z](?:(?!--|__)[a-zA-Z0-9_-])*"
_SIZES = range(10, 16385)  # GB
_MOST_ATTACHED = 8
# Seconds; a machine that runs takes longer to let go than to take.
_CREATE, _ATTACH, _DETACH = 2, 2, 6


class Volumes:
    """Answers for /volumes; without a folder there is nothing on them."""

    def __init__(self, account: Account, folder: Path | None) -> None:
        self._account = account
        self._folder = folder

    def operations(self) -> list[Operation]:
        one, read, write = "/volumes/{id:int}", "volumes:read_only", "volumes:read_write"
        both = "volumes:read_write,linodes:read_write"
        return [
            Operation("GET", "/volumes", read, self._list, fields("label tags")),
            Operation("POST", "/volumes", write, self._create),
            Operation("GET", "/volumes/types", "", self._types, public=True),
            Operation("GET", one, read, self._get),
            Operation("PUT", one, write, self._update),
            Operation("DELETE", one, write, self._delete),
            Operation("POST", f"{one}/attach", both, self._attach),
            Operation("POST", f"{one}/detach", both, self._detach),
        ]

    def _types(self, call: Call) -> Result:
        return [catalogue.volume_type()]

    def _list(self, call: Call) -> Sequence[Volume]:
        return self._account.all(Volume)

    def _get(self, call: Call) -> JSON:
        return self._account.find(Volume, call.id).view()

    def _create(self, call: Call) -> JSON:
        account, body = self._account, call.body
        at = self._instance(body["linode_id"]) if body.get("linode_id") is not None else None
        region = body.get("region") or (at.region if at else None)
        if region is None:
            raise Refusal("Must provide a region or a Linode ID", "region")
        size = body.get("size") or 20
        if size not in _SIZES:
            raise Refusal("Must be 10-16384", "size")
        now = account.now()
        volume = Volume(
            id=next(account.ids),
            label=account.check_label(Volume, body.get("label"), _LABEL, _LABEL_SIZES),
            created=now,
            updated=now,
            tags=account.check_tags(body.get("tags"), call.restricted),
            region=catalogue.check_region(region),
            size=size,
            encryption=body.get("encryption") or "enabled",
        )
        if at:
            self._check_place(volume, at)
        account.add(volume)
        if self._folder:
            (self._folder / str(volume.id)).mkdir(parents=True)
        account.begin("volume_create", volume, _CREATE, lambda: self._created(volume))
        if at:
            self._join(volume, at)
        return volume.view()

    def _created(self, volume: Volume) -> None:
        volume.status = "active"

    def _update(self, call: Call) -> JSON:
        volume = self._account.find(Volume, call.id)
        label = call.body.get("label", volume.label)
        if label != volume.label:
            volume.label = self._account.check_label(Volume, label, _LABEL, _LABEL_SIZES)
        if "tags" in call.body:
            volume.tags = self._account.check_tags(call.body["tags"], call.restricted)
        volume.updated = self._account.now()
        return volume.view()

    def _delete(self, call: Call) -> JSON:
        volume = self._account.find(Volume, call.id)
        if volume.instance:
            raise Refusal("Volume must be detached before it can be deleted")
        self._account.delete(volume, 0, lambda: self._gone(volume))
        return {}

    def _gone(self, volume: Volume) -> None:
        self._account.remove(volume)
        if self._folder:
            shutil.rmtree(self._folder / str(volume.id), ignore_errors=True)

    def _instance(self, id: object) -> Instance:
        at = next((each for each in self._account.all(Instance) if each.id == id), None)
        if at is None:
            raise invalid("linode_id")
        return at

    def _check_place(self, volume: Volume, at: Instance) -> None:
        if at.region != volume.region:
            raise Refusal("Volume and Linode must be in the same region", "linode_id")
        attached = sum(other.instance is at for other in self._account.all(Volume))
        if attached >= _MOST_ATTACHED:
            raise Refusal("Linode has too many disks and Volumes attached", "linode_id")
        if at.jobs or at.deleting:
            raise busy()

    def _attach(self, call: Call) -> JSON:
        volume = self._account.find(Volume, call.id)
        at = self._instance(call.body.get("linode_id"))
        if volume.instance:
            raise Refusal(f"Volume {volume.id} is already attached")
        self._check_place(volume, at)
        self._join(volume, at)
        return volume.view()

    def _join(self, volume: Volume, at: Instance) -> None:
        volume.instance = at

        def joined() -> None:
            if volume.instance is not at or at.gone:
                return
            if at.machine and self._folder:
                at.machine.attach(volume.label, self._folder / str(volume.id))
            volume.joined = True
            self._account.tell(f"volume {volume.id} ({volume.label}) attached to {at.label}")

        self._account.begin("volume_attach", volume, _ATTACH, joined, also=[at])

    def _detach(self, call: Call) -> JSON:
        volume = self._account.find(Volume, call.id)
        at = volume.instance
        if at is None:
            raise Refusal("Volume is not attached to a Linode")
        if volume.jobs or at.jobs:
            raise busy()

        def apart() -> None:
            if volume.instance is not at:
                return
            if at.machine and volume.joined:
                at.machine.detach(volume.label)
            volume.instance, volume.joined = None, False
            self._account.tell(f"volume {volume.id} ({volume.label}) detached")

        self._account.begin("volume_detach", volume, _DETACH, apart, also=[at])
        return {}
