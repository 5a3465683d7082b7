"""What one run rents: a firewall, a key for its bucket, and machines as they are needed.

All of it is deleted on the way out, whatever happened inside, and proven gone.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

from infra.attached import Attached
from infra.clock import Clock
from infra.failure import Cause, Failure
from infra.lease import Patience, lease, seconds_to_work
from infra.machines import Machine
from infra.ownership import owner_of
from infra.protocol import Result, run_key
from infra.provider import Kind, Offer, Thing
from infra.reaper_report import must_be_watched
from infra.receipt import Receipt
from infra.remote import RemoteMachine
from infra.rental import Rental
from infra.rented import PYTHON, Rented, Watch
from infra.renting import Wanted, mint_key, open_firewall, rent
from infra.ssh.login import known_name
from infra.stackscripts import PREPARER, TRAINER, requirements
from infra.stores import Store
from infra.uninterrupted import uninterrupted
from infra.wheel import BOX, build_wheel
from model.manifest import Manifest
from pipeline import artifacts
from pipeline.dataset import bytes_to_train
from pipeline.monthly_budget import monthly_budget
from pipeline.plan import Plan, deadline_in_words, make_plan
from pipeline.run import Run, Stage
from pipeline.run_record import is_trained

KEY = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_SERVER = ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_CA_BUNDLE")  # not secret
MACHINES = 3  # that are rented one after the other for a training that loses them
_ROOM = 10**9  # bytes on a machine's disk beside the data: checkpoints, log


@dataclass(frozen=True)
class Workplace:
    """A machine, the store that it and we see, and how long it may be used and waited for."""

    machine: Machine
    store: Store
    seconds: float  # real ones, for the job
    gpus: int | None = None  # that are paid for; None: as many as it has
    begun: bool = False  # an earlier controller started it, and it is at work
    clock: Clock = Clock()  # noqa: RUF009  # frozen
    patience: Patience = Patience()  # noqa: RUF009


@contextmanager
def tenancy(run: Run) -> Iterator["Tenancy"]:
    """What a run rents; when the block is left, it is gone, and the receipt in the store."""
    parameters = run.parameters
    hours, goes_on = parameters.limits.train_hours, run.earlier is not None
    plan = make_plan(parameters.rental, hours, run.store, goes_on=goes_on)
    tenant = Tenancy(run, plan)
    try:
        yield tenant
    finally:
        uninterrupted(tenant.tear_down)


def _what_stays(receipt: Receipt) -> str:
    kept = [f"{line.kind} {line.label}" for line in receipt.lines if line.kept_until]
    return f"kept: {', '.join(kept)}" if kept else "nothing is left"


def with_room(offers: Sequence[Offer], needed: int) -> tuple[Offer, ...]:
    """The offers whose disk holds `needed` bytes, at most; Failure(BAD_INPUT) where none does.

    How much of it the system takes is seen when the machine is there.
    """
    within = tuple(offer for offer in offers if offer.disk_mb << 20 > needed)
    if offers and not within:
        largest = max(offers, key=lambda offer: offer.disk_mb)
        raise Failure(
            Cause.BAD_INPUT,
            f"The job needs {needed / 1e9:.1f} GB of disk, and {largest.plan} has "
            f"{(largest.disk_mb << 20) / 1e9:.1f} GB: let shards come from the store when their "
            "turn comes (--set stream_gb=…, half of that disk or less), or name a larger --plan.",
        )
    return within


class Tenancy:
    """A run at a provider. Nothing is created before it is needed."""

    def __init__(self, run: Run, plan: Plan) -> None:
        self.run = run
        self.plan = plan
        self.patience = Patience().in_time_of(plan.clock)
        self.trainer: Rented | None = None  # the latest
        self.rental = Rental(
            plan.provider,
            run.store,
            run.run_id,
            clock=plan.clock,
            patience=self.patience,
            say=run.say,
            must_hold=run.must_hold,
        )

    def trainers(self, dataset: Manifest) -> Iterator[Workplace]:
        """Machines with a GPU, one after the other: the next when the one before is proven gone.

        The first is the one at which an earlier controller's job is at work, if there is any.
        """
        if self.run.earlier and (place := self._at_work()):
            self.rental.reached("training", f"{place.machine.where}, begun earlier")
            yield place
        for _ in range(MACHINES):
            with self.run.stage("rent") as stage:
                self.rental.say = stage.say
                offers = self._without_the_lost(self.plan.offers)
                # Whose sign of life it was is gone: nobody must follow the next machine by it.
                for job in _jobs(self.run):
                    self.run.store.delete(run_key(job, "heartbeat.json"))
                self.trainer = self.rent_trainer(dataset, stage, offers=offers)
            place = self.trains_on(self.trainer, self.machine(self.trainer), self.run.store)
            self.rental.reached("training", place.machine.where)
            yield place

    def _at_work(self) -> Workplace | None:
        """Where the job of an earlier controller goes on, or has ended well.

        Whoever started it had the key to log in, which is lost; that is not needed any more once
        its agent has been heard of.
        """
        store, run_id = self.run.store, self.run.run_id
        if is_trained(store, run_id):
            return Workplace(Attached("its machine, which has finished"), store, 0, begun=True)
        if job_at_work(self.run) is None:
            return None
        for intent in self.rental.there(Kind.INSTANCE):
            for thing in self.plan.provider.list(Kind.INSTANCE, label=intent.label):
                if (own := owner_of(thing)) and own.run_id == run_id:
                    machine = Attached(
                        f"{intent.plan} in {intent.region}", Watch(self.rental, thing)
                    )
                    return replace(self._until(own.until, machine, store), begun=True)
        return None

    def _without_the_lost(self, offers: tuple[Offer, ...]) -> tuple[Offer, ...]:
        """Have every machine gone that is there still; theirs are the offers to be asked last."""
        for lost in self.rental.there(Kind.INSTANCE):
            self.rental.say(f"{lost.label} is lost; another is rented for it")
            self.rental.replace(lost.label)
            same = [one for one in offers if (one.plan, one.region) == (lost.plan, lost.region)]
            offers = (*(one for one in offers if one not in same), *same)
        return offers

    def rent_trainer(self, dataset: Manifest, stage: Stage, *, offers: tuple[Offer, ...]) -> Rented:
        """A machine with a GPU and room for the dataset; the first of these that can be had."""
        needed = bytes_to_train(dataset, self.run.parameters.resolved_recipe()) + _ROOM
        wanted = Wanted(
            offers=with_room(offers, needed),
            budget=self.plan.terms.budget,
            hours=self.plan.hours,
            script="gpu_trainer",
            requirements=requirements(TRAINER),
            disk_bytes=needed,
        )
        return self._rent(wanted, stage)

    def rent_preparer(self, stage: Stage, *, hours: float, region: str | None = None) -> Rented:
        """A machine without a GPU, on which the dataset is built."""
        self.rental.say = stage.say
        wanted = Wanted(
            offers=in_region(region, self._without_the_lost(self.plan.preparers)),
            budget=self.plan.terms.budget,
            hours=hours,
            script="cpu_preparer",
            requirements=requirements(PREPARER),
            part="p",
        )
        return self._rent(wanted, stage)

    def _rent(self, wanted: Wanted, stage: Stage) -> Rented:
        self.rental.say = stage.say
        if self.plan.terms.reaper:  # what looked before the preparation may have ended by now
            must_be_watched(self.run.store, self.plan.clock.now())
        self._must_be_within_the_month(wanted)
        rented = rent(self.rental, wanted, self._firewall)
        offer = rented.offer
        stage.summary = f"{offer.plan} in {offer.region}, ${offer.dollars_per_hour:.2f} an hour"
        return rented

    def _must_be_within_the_month(self, wanted: Wanted) -> None:
        """Raise Failure(BUDGET) where another machine could cost more than the month has left.

        What this run has rented already is part of what the month has cost.
        """
        monthly = monthly_budget(self.run.store, self.plan.clock)
        if monthly is None:
            return
        worst, now, spent = 0.0, self.plan.clock.now(), self.rental.committed()
        for offer in wanted.offers:
            price = offer.dollars_per_hour
            with suppress(Failure):  # the run's own budget does not pay for an hour of it
                right = lease(now, price, wanted.budget, spent=spent, most_hours=wanted.hours)
                worst = max(worst, right.dollars)
        monthly.must_pay_for(worst)

    @cached_property
    def _firewall(self) -> Thing:
        return open_firewall(self.rental, self.plan.ssh_from, self.plan.hours)

    @cached_property
    def _key(self) -> dict[str, str]:
        """A key of the run's own for its bucket; none where the store is no bucket."""
        if self.plan.bucket is None:
            return {}
        made = mint_key(self.rental, self.plan.bucket, self.plan.endpoint, self.plan.hours)
        return dict(zip(KEY, (made.access_key, made.secret_key), strict=True))

    def machine(self, rented: Rented, *, store_url: str | None = None) -> Machine:
        """The machine as one that runs a training; `store_url` is the store as it sees it."""
        return self._machine(rented, BOX, store_url)

    def preparer(self, rented: Rented, *, store_url: str | None = None) -> Machine:
        """The machine as one that runs the preparation."""
        return self._machine(rented, (*BOX, "pipeline.prepare"), store_url)

    def _machine(self, rented: Rented, code: Sequence[str], store_url: str | None) -> Machine:
        return RemoteMachine(
            rented.connect,
            python=PYTHON,
            store_url=store_url,
            secrets=secrets_for(self.run, self._key),
            where=f"{rented.offer.title} in {rented.offer.region}",
            state=Watch(self.rental, rented.instance),
            wheel=build_wheel(code),
        )

    def trains_on(self, rented: Rented, machine: Machine, store: Store) -> Workplace:
        """The machine as a place to train, for as long as the lease and the limits allow."""
        place = self.prepares_on(rented, machine, store)
        most = self.run.parameters.limits.train_hours * 3600
        return replace(place, seconds=min(place.seconds, most), gpus=max(1, rented.offer.gpus))

    def prepares_on(self, rented: Rented, machine: Machine, store: Store) -> Workplace:
        """The machine as a place to prepare, for as long as the lease allows."""
        return self._until(rented.lease.until, machine, store)

    def _until(self, until: datetime, machine: Machine, store: Store) -> Workplace:
        clock = self.plan.clock
        left = seconds_to_work(until, clock.now()) / clock.speed
        return Workplace(machine, store, left, clock=clock, patience=self.patience)

    def tear_down(self) -> None:
        """Delete everything but what is kept, and show the receipt."""
        try:
            with self.run.stage("tear-down") as stage:
                self.rental.say = stage.say
                receipt = self.rental.tear_down()
                artifacts.show_receipt(receipt)
                stage.summary = f"${receipt.dollars:.2f}; {_what_stays(receipt)}"
        except Failure:
            raise
        except Exception:  # a display that fails must leave nothing there
            self.rental.tear_down()
            raise

    def keep(self, rented: Rented) -> None:
        """Leave a machine until its deadline, with its firewall and a way to log in."""
        endpoint, folder = rented.endpoint, self.run.folder
        key, known = folder / "ssh_key", folder / "known_hosts"
        key.touch(0o600)
        key.write_text(rented.key.private)
        known.write_text(f"{known_name(endpoint)} {rented.host_key}\n")
        self.rental.keep(rented.instance.label, self._firewall.label)
        self.rental.say(
            f"kept until {deadline_in_words(rented.lease.until)}, which costs "
            f"${rented.lease.dollars:.2f} in all; sooner gone by `voc-train reap --delete --run "
            f"{self.run.run_id}`, and by itself when the reaper deletes it: "
            f"ssh -i {key} -o UserKnownHostsFile={known} -p {endpoint.port} "
            f"{endpoint.user}@{endpoint.host}"
        )


def job_at_work(run: Run) -> str | None:
    """The id of the run, or of the sweep's trial, whose agent was heard of and has not ended."""

    def is_at_work(job: str) -> bool:
        heard = run.store.size(run_key(job, "heartbeat.json"))
        return bool(heard) and not run.store.read_whole(run_key(job, "result.json"), Result)

    return next(filter(is_at_work, _jobs(run)), None)


def _jobs(run: Run) -> tuple[str, ...]:
    """Of a sweep each trial is one."""
    return tuple(trial.run_id for trial in run.trials) or (run.run_id,)


def in_region(region: str | None, offers: tuple[Offer, ...]) -> tuple[Offer, ...]:
    """Those of a region, or all of them."""
    return tuple(offer for offer in offers if region in (None, offer.region))


def secrets_for(run: Run, key: Mapping[str, str]) -> dict[str, str]:
    """What the agent gets on its way: the bucket's key and server, and W&B's key if wanted."""
    names = [*_SERVER] if key else []
    if run.parameters.wandb in ("auto", "online"):
        names.append("WANDB_API_KEY")
    return dict(key) | {name: os.environ[name] for name in names if os.environ.get(name)}
