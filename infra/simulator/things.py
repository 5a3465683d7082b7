"""What an account holds: each thing with its state, and what the API shows of it."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Protocol

from infra.simulator import catalogue
from infra.simulator.answers import JSON, stamp


class Machine(Protocol):
    """The computer behind an instance; `infra.simulator.machine` has the real one.

    What `boot` is given besides the name counts at the first boot only.
    """

    admits: Callable[[str], bool]

    def boot(
        self,
        *,
        hostname: str,
        authorized_keys: Sequence[str] = (),
        user_data: str = "",
        script: str = "",
        environment: Mapping[str, str] = {},
    ) -> None: ...
    def shut_down(self) -> None: ...
    def destroy(self) -> None: ...
    def attach(self, label: str, volume: Path) -> None: ...
    def detach(self, label: str) -> None: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...
    def forge_host_key(self) -> None: ...


@dataclass(kw_only=True)
class Thing:
    """Anything that was created and can be deleted."""

    kind: ClassVar[str]
    type: ClassVar[str]  # the word in events and tags
    url: ClassVar[str]

    id: int
    label: str
    created: datetime
    updated: datetime
    tags: list[str] = field(default_factory=list)
    gone: datetime | None = None
    deleting: bool = False
    foreign: bool = False  # put there by a test as somebody else's: never to be touched
    jobs: int = 0  # that run on it just now

    def view(self) -> JSON:
        """What the API shows."""
        raise NotImplementedError

    def seen(self) -> None:
        """Somebody has read it, and will see something newer next time."""

    @property
    def hourly(self) -> float:
        """Dollars an hour while it exists."""
        return 0.0

    def entity(self) -> JSON:
        """How events, tags and firewalls refer to it."""
        return {
            "id": self.id,
            "label": self.label,
            "type": self.type,
            "url": f"/v4/{self.url}/{self.id}",
        }


@dataclass(kw_only=True)
class Instance(Thing):
    kind = "instance"
    type = "linode"
    url = "linode/instances"

    plan: str
    region: str
    address: str
    image: str | None
    interface_generation: str
    status: str = "provisioning"
    stale: str | None = None  # what the next read still shows
    private_address: str | None = None
    backups: bool = False
    disk_encryption: str = "enabled"
    maintenance_policy: str = "linode/migrate"
    watchdog: bool = True
    group: str = ""
    order: JSON = field(default_factory=dict, repr=False)  # as it was asked for
    script: "Script | None" = None
    machine: Machine | None = None

    def view(self) -> JSON:
        plan = catalogue.plan(self.plan)
        return {
            "id": self.id,
            "label": self.label,
            "group": self.group,
            "status": self.stale or ("deleting" if self.deleting else self.status),
            "created": stamp(self.created),
            "updated": stamp(self.updated),
            "type": self.plan,
            # The order of the addresses is promised nowhere, so the private one may come first.
            "ipv4": [*([self.private_address] if self.private_address else []), self.address],
            "ipv6": f"2001:db8::{self.id // 65536:x}:{self.id % 65536:x}/128",
            "image": self.image,
            "region": self.region,
            "site_type": "core",
            "specs": {name: plan[name] for name in ("disk", "memory", "vcpus", "gpus", "transfer")}
            | {"accelerated_devices": 0},
            "alerts": {
                "cpu": 90,
                "network_in": 10,
                "network_out": 10,
                "transfer_quota": 80,
                "io": 10000,
                "system_alerts": [],
                "user_alerts": [],
            },
            "backups": {
                "enabled": self.backups,
                "available": False,
                "schedule": {"day": None, "window": None},
                "last_successful": None,
            },
            "hypervisor": "kvm",
            "watchdog_enabled": self.watchdog,
            "tags": list(self.tags),
            "host_uuid": hashlib.sha1(str(self.id).encode()).hexdigest(),
            "has_user_data": bool(self.order.get("metadata")),
            "placement_group": None,
            "disk_encryption": self.disk_encryption,
            "lke_cluster_id": None,
            "capabilities": ["Block Storage Encryption", "SMTP Enabled", "Maintenance Policy"],
            "interface_generation": self.interface_generation,
            "maintenance_policy": self.maintenance_policy,
            "locks": [],
        }

    def seen(self) -> None:
        self.stale = None

    @property
    def hourly(self) -> float:
        return catalogue.plan_price(self.plan, self.region)


@dataclass(kw_only=True)
class Volume(Thing):
    kind = "volume"
    type = "volume"
    url = "volumes"

    region: str
    size: int
    encryption: str = "enabled"
    status: str = "creating"
    instance: Instance | None = None
    joined: bool = False  # what is attached is there, too, and not only on its way

    @property
    def path(self) -> str:
        """Where a machine that it is attached to finds it."""
        return f"/dev/disk/by-id/scsi-0Linode_Volume_{self.label}"

    def view(self) -> JSON:
        at = self.instance
        return {
            "id": self.id,
            "status": self.status,
            "label": self.label,
            "created": stamp(self.created),
            "updated": stamp(self.updated),
            "filesystem_path": self.path,
            "size": self.size,
            "linode_id": at.id if at else None,
            "linode_label": at.label if at else None,
            "io_ready": at is not None and self.joined and at.status == "running",
            "region": self.region,
            "tags": list(self.tags),
            "hardware_type": "nvme",
            "encryption": self.encryption,
            "locks": [],
        }

    @property
    def hourly(self) -> float:
        return catalogue.volume_price(self.size, self.region)


@dataclass(kw_only=True)
class Firewall(Thing):
    kind = "firewall"
    type = "firewall"
    url = "networking/firewalls"

    rules: JSON
    status: str = "enabled"
    devices: dict[int, Instance] = field(default_factory=dict)

    def view(self) -> JSON:
        return {
            "id": self.id,
            "label": self.label,
            "created": stamp(self.created),
            "updated": stamp(self.updated),
            "status": self.status,
            "rules": self.rules,
            "tags": list(self.tags),
            "entities": [
                instance.entity() | {"parent_entity": None} for instance in self.devices.values()
            ],
        }


@dataclass(kw_only=True)
class Script(Thing):
    kind = "stackscript"
    type = "stackscript"
    url = "linode/stackscripts"

    script: str
    images: list[str]
    username: str
    description: str = ""
    rev_note: str = ""
    is_public: bool = False
    deployments: int = 0

    def view(self) -> JSON:
        return {
            "id": self.id,
            "username": self.username,
            "user_gravatar_id": hashlib.md5(self.username.encode()).hexdigest(),
            "label": self.label,
            "description": self.description,
            "ordinal": 0,
            "logo_url": "",
            "images": self.images,
            "deployments_total": self.deployments,
            "deployments_active": self.deployments,
            "is_public": self.is_public,
            "mine": not (self.foreign and self.is_public),
            "created": stamp(self.created),
            "updated": stamp(self.updated),
            "rev_note": self.rev_note,
            "script": self.script,
            "user_defined_fields": self.fields(),
        }

    def fields(self) -> list[JSON]:
        """The script's `<UDF name="x" label="L" .../>` tags, as the API shows them."""
        found = []
        for tag in re.findall(r"<UDF\s+(.*?)/?>", self.script, re.IGNORECASE):
            said = {key.lower(): value for key, value in re.findall(r'(\w+)="([^"]*)"', tag)}
            if "name" in said:
                names = ("name", "label", "default", "example", "oneof", "manyof")
                found.append({name: said[name] for name in names if name in said})
        return found
