"""The Volume route: no object storage, but a disk that moves between two machines.

The plan of the project that this one grew out of, step by step: a CPU machine with a Volume
prepares the dataset, a GPU machine is set up, both are shut down, the Volume moves over, the GPU
trains, the Volume moves back, and the checkpoint comes home over SSH. The Volume is mounted at
~/voc-train: archive, code, dataset, checkpoints and logs all lie on it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path, PurePosixPath

from infra.moving import Mover
from infra.ownership import owner_of, tags
from infra.protocol import run_key
from infra.provider import Kind, Thing, VolumeOrder
from infra.rented import Rented
from infra.sftp_store import SFTPStore
from infra.ssh import Connection
from infra.stores import Store
from model.manifest import Manifest
from pipeline.download.local import must_be_here
from pipeline.plan import VOLUME_STAYS
from pipeline.run import Run, Stage
from pipeline.tenancy import Tenancy, Workplace, in_region, tenancy

_WAY_BACK = 900.0  # seconds: off, out, in, on, and all of it over SSH
_LEAST, _SLOWEST = 120.0, 250_000  # seconds, and bytes a second, of an upload


@contextmanager
def volume_route(run: Run) -> Iterator["VolumeRoute"]:
    """Two machines and a Volume; all of it is gone when the block is left.

    But for the Volume of a run that failed in training or after: while a reaper looks it stays a
    day, since what was learned is on it.
    """
    with tenancy(run) as tenant:
        with run.stage("rent-preparer") as stage:
            tenant.rental.say = stage.say
            route = VolumeRoute(run, tenant, stage)
        yield route
        tenant.rental.reached("verified", "the checkpoint is home")
        tenant.rental.let_go(route.volume.label)


class VolumeRoute:
    """Where the Volume is, and what is on it."""

    def __init__(self, run: Run, tenant: Tenancy, stage: Stage) -> None:
        self._run = run
        self._tenant = tenant
        earlier = self._earlier_volume()
        # To an earlier controller's machines none can log in any more.
        left = [one.label for one in tenant.rental.there(*Kind)]
        tenant.rental.replace(*(name for name in left if not earlier or name != earlier.label))
        # A Volume cannot leave its region: it is the one in which the GPU is to be had.
        self._region = earlier.region if earlier else tenant.plan.offers[0].region
        hours = tenant.plan.lease.hours  # what the budget pays for both machines together
        self._preparer = tenant.rent_preparer(stage, hours=hours, region=self._region)
        self.volume = earlier or self._create_volume()
        self._mover = Mover(tenant.rental, tenant.plan.provider, self.volume)
        self._trainer: Rented | None = None
        self._mover.put_into(self._preparer)

    def _earlier_volume(self) -> Thing | None:
        """The Volume of the run that this one goes on with, if there is time left to use it."""
        rental, plan = self._tenant.rental, self._tenant.plan
        until = plan.clock.now() + timedelta(hours=plan.lease.hours)
        for intent in rental.there(Kind.VOLUME):
            for thing in plan.provider.list(Kind.VOLUME, label=intent.label):
                if (own := owner_of(thing)) and own.run_id == self._run.run_id:
                    if own.until > until:
                        self._keep(thing)
                        return thing
                    rental.say(f"{thing.label} would be deleted too soon: all begins anew")
        return None

    def _keep(self, volume: Thing) -> None:
        """Something was learned that is only there."""
        if self._tenant.plan.terms.reaper:  # which deletes it in the end
            self._tenant.rental.keep(volume.label)

    def _create_volume(self) -> Thing:
        rental, plan = self._tenant.rental, self._tenant.plan
        until = self._preparer.lease.until + VOLUME_STAYS
        name = rental.next_label("v")
        own = tags(self._run.run_id, until)
        order = VolumeOrder(name, own, self._region, plan.terms.volume_gb)
        made = rental.create(order, price=plan.volume_price, until=until)
        assert isinstance(made, Thing)
        return made

    def preparer(self) -> Workplace:
        """The machine that prepares, with the Volume in it."""
        store, url = self._store(self._preparer)
        machine = self._tenant.preparer(self._preparer, store_url=url)
        return self._tenant.prepares_on(self._preparer, machine, store)

    def archives(self, stage: Stage) -> tuple[str, ...]:
        """The archives as the preparing machine sees them: those of this computer, uploaded."""
        must_be_here(self._run.parameters.archives)
        with self._preparer.connect() as connection:
            return tuple(
                _uploaded(connection, number, url, stage) if "://" not in url else url
                for number, url in enumerate(self._run.parameters.archives)
            )

    def trainer(self, dataset: Manifest, stage: Stage) -> Workplace:
        """A machine with a GPU, and the Volume moved into it; the one before is lost."""
        if lost := self._trainer:
            self._tenant.rental.say(f"{lost.instance.label} is lost; another is rented for it")
            self._tenant.rental.replace(lost.instance.label)
        rented = self._trainer = self._tenant.rent_trainer(
            dataset, stage, offers=in_region(self._region, self._tenant.plan.offers)
        )
        self._mover.shut_down(rented)
        if not lost:
            self._mover.take_out_of(self._preparer)
        self._mover.put_into(rented)
        store, url = self._store(rented)
        machine = self._tenant.machine(rented, store_url=url)
        self._tenant.rental.reached("training", machine.where)
        self._keep(self.volume)
        place = self._tenant.trains_on(rented, machine, store)
        # The way back leads through the first machine, whose lease began earlier, and takes longer.
        left = self._tenant.prepares_on(self._preparer, machine, store).seconds
        return replace(place, seconds=min(place.seconds, left) - _WAY_BACK / place.clock.speed)

    def bring_back(self, stage: Stage) -> Store:
        """Move the Volume back, and have the run's records in the run's store.

        The GPU machine, which costs most, is deleted as soon as the Volume is out of it. Returns
        the Volume's store, which has the checkpoints and the dataset.
        """
        assert self._trainer
        self._tenant.rental.say = stage.say
        self._mover.take_out_of(self._trainer)
        self._tenant.rental.release(self._trainer.instance.label)
        self._mover.put_into(self._preparer)
        store, _ = self._store(self._preparer)
        prefix = run_key(self._run.run_id)
        for entry in store.list(prefix):
            name = PurePosixPath(entry.key).relative_to(prefix)
            if name.parts[0] not in ("spec.json", "checkpoints"):
                self._run.store.put(entry.key, store.get(entry.key) or b"")
        return store

    def _store(self, rented: Rented) -> tuple[Store, str]:
        with rented.connect() as connection:
            folder = f"{connection.home()}/voc-train/store"
        return SFTPStore(rented.connect, folder), f"file://{folder}"


def _uploaded(connection: Connection, number: int, path: str, stage: Stage) -> str:
    """An archive of this computer, on the Volume; its path there."""
    name, _, checksum = path.partition("#sha256=")
    there = f"{connection.home()}/voc-train/archives/{number}/{Path(name).name}"
    size = Path(name).stat().st_size
    stage.say(f"sending {name} ({size / 1e6:.1f} MB)")
    connection.put(Path(name), there, timeout=_LEAST + size / _SLOWEST)
    return f"{there}#sha256={checksum}" if checksum else there
