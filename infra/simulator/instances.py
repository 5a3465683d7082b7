"""The instances of an account: how they come up, change and go."""

import re
from collections.abc import Callable, Sequence

from infra.simulator import catalogue, orders
from infra.simulator.account import Account
from infra.simulator.answers import JSON, Refusal, busy
from infra.simulator.faults import Effect
from infra.simulator.operations import Call, Operation, fields
from infra.simulator.things import Firewall, Instance, Machine, Volume

# Seconds, as recorded: a machine is there after 65, of which it boots 24.
_DEPLOY, _EMPTY, _BOOT, _SHUT_DOWN, _DELETE = 41, 8, 24, 28, 5
_REBOOT_DOWN = 6

MachineRoom = Callable[[Instance], Machine | None]


class Instances:
    """Answers for /linode/instances."""

    def __init__(
        self, account: Account, addresses: Callable[[], str], machine_room: MachineRoom
    ) -> None:
        self._account = account
        self._addresses = addresses
        self._machine_room = machine_room

    def operations(self) -> list[Operation]:
        one, read, write = "/linode/instances/{id:int}", "linodes:read_only", "linodes:read_write"
        filterable = fields("id label group image ipv4 region tags interface_generation")
        volumes = fields("label tags")
        return [
            Operation("GET", "/linode/instances", read, self._list, filterable),
            Operation("POST", "/linode/instances", write, self.create),
            Operation("GET", one, read, self._get),
            Operation("PUT", one, write, self._update),
            Operation("DELETE", one, write, self._delete),
            Operation("POST", f"{one}/boot", write, self._boot),
            Operation("POST", f"{one}/shutdown", write, self._shut_down),
            Operation("POST", f"{one}/reboot", write, self._reboot),
            Operation("GET", f"{one}/ips", read, self._ips),
            Operation("GET", f"{one}/volumes", read, self._volumes, volumes),
            Operation("GET", f"{one}/firewalls", read, self._firewalls),
        ]

    def create(self, call: Call) -> JSON:
        """Provision a machine, which takes its time."""
        account = self._account
        order = orders.instance(account, call)
        now = account.now()
        instance = Instance(
            id=next(account.ids),
            label=order.label,
            created=now,
            updated=now,
            tags=order.tags,
            plan=order.plan,
            region=order.region,
            address=self._addresses(),
            private_address="192.168.128.17" if call.body.get("private_ip") else None,
            image=order.image,
            interface_generation=order.generation,
            backups=bool(call.body.get("backups_enabled")),
            disk_encryption=call.body.get("disk_encryption") or "enabled",
            maintenance_policy=call.body.get("maintenance_policy") or "linode/migrate",
            group=call.body.get("group") or "",
            order=call.body,
            script=order.script,
        )
        account.add(instance)
        for firewall in order.firewalls:
            firewall.devices[next(account.ids)] = instance
        if order.script:
            order.script.deployments += 1
        instance.machine = self._machine_room(instance)
        booted = call.body.get("booted")
        boots = order.image is not None if booted is None else bool(booted)

        def deployed() -> None:
            if boots and order.image:
                self._start(instance)
            else:
                account.instance_is(instance, "offline")

        account.begin("linode_create", instance, _DEPLOY if order.image else _EMPTY, deployed)
        return instance.view()

    def _list(self, call: Call) -> Sequence[Instance]:
        self._vanish()
        return self._account.all(Instance)

    def _get(self, call: Call) -> JSON:
        self._vanish()
        instance = self._account.find(Instance, call.id)
        view = instance.view()
        instance.seen()
        return view

    def _vanish(self) -> None:
        for instance in self._account.all(Instance):
            if self._account.faults.strike(Effect.VANISH, label=instance.label):
                self._gone(instance)

    def _update(self, call: Call) -> JSON:
        instance = self._account.find(Instance, call.id)
        label = call.body.get("label", instance.label)
        if label != instance.label:
            instance.label = self._account.check_label(
                Instance, label, orders.LABEL, orders.LABEL_SIZES
            )
        if "tags" in call.body:
            instance.tags = self._account.check_tags(call.body["tags"], call.restricted)
        instance.group = call.body.get("group", instance.group)
        instance.watchdog = call.body.get("watchdog_enabled", instance.watchdog)
        instance.updated = self._account.now()
        return instance.view()

    def _delete(self, call: Call) -> JSON:
        instance = self._account.find(Instance, call.id)
        instance.stale = instance.stale or instance.status
        self._account.delete(instance, _DELETE, lambda: self._gone(instance))
        return {}

    def _gone(self, instance: Instance) -> None:
        for volume in self._account.all(Volume):
            if volume.instance is instance:
                if instance.machine and volume.joined:
                    instance.machine.detach(volume.label)
                volume.instance, volume.joined = None, False
        for firewall in self._account.all(Firewall):
            for device in [id for id, at in firewall.devices.items() if at is instance]:
                del firewall.devices[device]
        if instance.machine:
            instance.machine.destroy()
        self._account.remove(instance)

    def _idle(self, id: int) -> Instance:
        instance = self._account.find(Instance, id)
        if instance.jobs or instance.deleting:
            raise busy()
        return instance

    def _boot(self, call: Call) -> JSON:
        instance = self._idle(call.id)
        if instance.image is None:
            raise Refusal("Linode has no configuration profile to boot")
        if instance.status == "running":
            raise Refusal("Linode is already booted")
        instance.stale = instance.status
        self._start(instance)
        return {}

    def _start(self, instance: Instance) -> None:
        account = self._account
        account.instance_is(instance, "booting")
        if account.faults.strike(Effect.BOOT_NEVER_ENDS, label=instance.label):
            instance.jobs += 1
            return
        if instance.machine:
            self._switch_on(instance, instance.machine)
        account.begin(
            "linode_boot", instance, _BOOT, lambda: account.instance_is(instance, "running")
        )

    def _switch_on(self, instance: Instance, machine: Machine) -> None:
        machine.boot(
            hostname=re.sub(r"[^A-Za-z0-9-]", "-", instance.label),
            authorized_keys=instance.order.get("authorized_keys", []),
            user_data=orders.user_data(instance.order),
            script=instance.script.script if instance.script else "",
            environment=self._environment(instance),
        )
        if freeze := self._account.faults.strike(Effect.SSHD_FREEZES, label=instance.label):
            self._account.schedule.after(freeze.seconds, machine.freeze)
        if self._account.faults.strike(Effect.WRONG_HOST_KEY, label=instance.label):
            machine.forge_host_key()

    def _environment(self, instance: Instance) -> dict[str, str]:
        given = instance.order.get("stackscript_data") or {}
        declared = instance.script.fields() if instance.script else []
        values = {
            field["name"].upper(): str(given.get(field["name"], field.get("default", "")))
            for field in declared
        }
        return values | {
            "LINODE_ID": str(instance.id),
            "LINODE_LISHUSERNAME": f"linode{instance.id}",
            "LINODE_RAM": str(catalogue.plan(instance.plan)["memory"]),
            "LINODE_DATACENTERID": str(1 + list(catalogue.REGIONS).index(instance.region)),
        }

    def _shut_down(self, call: Call) -> JSON:
        instance = self._idle(call.id)
        if instance.status != "running":
            raise Refusal("Linode is not running")
        instance.stale = instance.status
        self._account.instance_is(instance, "shutting_down")

        def off() -> None:
            if instance.machine:
                instance.machine.shut_down()
            self._account.instance_is(instance, "offline")

        self._account.begin("linode_shutdown", instance, _SHUT_DOWN, off)
        return {}

    def _reboot(self, call: Call) -> JSON:
        instance = self._idle(call.id)
        if instance.status != "running":
            raise Refusal("Linode is not running")
        instance.stale = instance.status
        self._account.instance_is(instance, "rebooting")
        if instance.machine:
            instance.machine.shut_down()

        def down() -> None:
            if instance.machine:
                self._switch_on(instance, instance.machine)
            self._account.instance_is(instance, "running")

        self._account.begin("linode_reboot", instance, _REBOOT_DOWN + _BOOT, down)
        return {}

    def _ips(self, call: Call) -> JSON:
        instance = self._account.find(Instance, call.id)
        address = {
            "address": instance.address,
            "gateway": "127.0.0.1",
            "subnet_mask": "255.0.0.0",
            "prefix": 8,
            "type": "ipv4",
            "public": True,
            "rdns": None,
            "linode_id": instance.id,
            "region": instance.region,
        }
        lists = {"public": [address], "private": [], "shared": [], "reserved": []}
        return {"ipv4": lists, "ipv6": None}

    def _volumes(self, call: Call) -> Sequence[Volume]:
        instance = self._account.find(Instance, call.id)
        return [volume for volume in self._account.all(Volume) if volume.instance is instance]

    def _firewalls(self, call: Call) -> Sequence[Firewall]:
        instance = self._account.find(Instance, call.id)
        return [
            firewall
            for firewall in self._account.all(Firewall)
            if instance in firewall.devices.values()
        ]
