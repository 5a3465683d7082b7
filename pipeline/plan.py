"""What a rental would be, before anything is created: the offers, the worst case, the refusals."""

import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from infra.buckets import probe
from infra.clock import Clock
from infra.failure import Cause, Failure
from infra.lease import Lease, lease
from infra.linode import Linode
from infra.provider import Kind, NoCapacity, Offer, Thing
from infra.reaper_report import must_be_watched
from infra.smoke import HOURS as SMOKE_HOURS
from infra.stores import Store, bucket_of
from model.errors import InputError
from pipeline.monthly_budget import MonthlyBudget, dollars_a_month, monthly_budget
from pipeline.parameters import RentalTerms

VOLUME_STAYS = timedelta(days=1)  # after a failure, for whoever wants to look
_DEARER = 2.1  # times the cheapest price: what is tried where no plan is named
_OVERHEAD_HOURS = 1  # of a rental beside training: boot, set-up, checkpoint home

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """A rental that could begin now. `bucket` is None for a store that is a folder here."""

    provider: Linode
    clock: Clock
    terms: RentalTerms
    offers: tuple[Offer, ...]  # best first, all of them within the budget
    hours: float  # at the most
    ssh_from: tuple[str, ...]
    bucket: str | None
    endpoint: str  # of the bucket's server
    preparers: tuple[Offer, ...] = ()  # without a GPU, where one is wanted; in `offers`' regions
    volume_price: float = 0.0  # dollars an hour, where one is wanted
    monthly: MonthlyBudget | None = None  # as it stands now, where there is one
    lacks: tuple[str, ...] = ()  # what must be mended before it can begin

    @property
    def lease(self) -> Lease:
        """The best offer's, were it rented now."""
        return self.lease_of(self.offers[0])

    def lease_of(self, offer: Offer) -> Lease:
        """An offer's, were it rented now, with all that exists beside it."""
        return lease(
            self.clock.now(),
            offer.dollars_per_hour + self.beside(offer.region),
            self.terms.budget,
            spent=self._set_aside(offer.region),
            most_hours=self.hours,
        )

    def first_hour_of(self, offer: Offer) -> float:
        """Dollars that an offer's shortest use costs, with all that exists before and beside it."""
        region = offer.region
        return offer.dollars_per_hour + self.beside(region) + self._set_aside(region)

    @property
    def worst_case(self) -> float:
        """Dollars for one machine of whichever offer is the dearest, up to its deadline."""
        return max(
            self.lease_of(offer).dollars + self._set_aside(offer.region) for offer in self.offers
        )

    def beside(self, region: str) -> float:
        """Dollars an hour of what is there as long as the machine that trains."""
        return self._preparer_price(region) + self.volume_price if self._is_volume_route else 0.0

    def _set_aside(self, region: str) -> float:
        """Dollars of the budget that are no part of the lease: a first machine, a Volume's stay."""
        if self._is_volume_route:
            return self.volume_price * (VOLUME_STAYS / timedelta(hours=1))
        return self._preparer_price(region)

    def _preparer_price(self, region: str) -> float:
        return next((o.dollars_per_hour for o in self.preparers if o.region == region), 0.0)

    @property
    def _is_volume_route(self) -> bool:
        return self.terms.route == "volume"

    @property
    def creates(self) -> tuple[str, ...]:
        """Everything that will exist at the provider, in words."""
        offer = self.offers[0]
        script = "a StackScript" if not self.preparers else "two StackScripts"
        said = [f"a machine {offer.plan} in {offer.region}, tagged with the run and its deadline"]
        if self.preparers:
            price = self._preparer_price(offer.region)
            said.append(
                f"a machine {self.terms.prepare_plan} to prepare the data, ${price:.3f} an hour"
            )
        if self._is_volume_route:
            said.append(
                f"a Volume of {self.terms.volume_gb} GB, ${self.volume_price:.3f} an hour; after a "
                f"failure it stays a day, for ${self._set_aside(offer.region):.2f}"
            )
        networks = ", ".join(self.ssh_from) or "(nowhere yet)"
        said.append(f"a firewall that lets SSH in from {networks} and nothing else")
        said.append(f"{script}, where the account has none of this version (free)")
        if self.bucket:
            said.append(f"a key for the bucket {self.bucket}, deleted at the end")
        return tuple(said)

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        right = self.lease
        return {
            "offers": [asdict(offer) for offer in self.offers],
            "budget": self.terms.budget,
            "first_hour_dollars": self.first_hour_of(self.offers[0]),
            "worst_case_dollars": self.worst_case,
            "at_most_dollars": self.terms.budget,
            "monthly_budget": self.monthly and asdict(self.monthly) | {"left": self.monthly.left},
            "hours": right.hours,
            "deadline": right.until,
            "preparers": [asdict(offer) for offer in self.preparers],
            "creates": self.creates,
            "lacks": self.lacks,
        }


def make_plan(
    terms: RentalTerms,
    train_hours: float,
    store: Store,
    *,
    rent_now: bool = True,
    goes_on: bool = False,
) -> Plan:
    """See what could be rented, and refuse what cannot work; creates nothing at the provider.

    `rent_now` asks for all that a rental needs: a store that the machine sees and that takes
    objects, a way in, a reaper. Without it what is missing is in the plan's `lacks`, and the store
    is only looked at. A run that `goes_on` may have a machine already, which nobody should leave
    alone for want of a reaper or of what is left of the monthly budget: these are asked for before
    another is rented. Raises Failure or InputError with the cure.
    """
    if not goes_on:
        dollars_a_month()  # what is mistyped here is refused before anybody is asked
    clock = Clock.from_environment()
    provider = Linode.from_environment(clock)
    lacks: list[str] = []

    def needed(look: Callable[[], T], *, now: bool = rent_now) -> T | None:
        try:
            return look()
        except (Failure, InputError) as refusal:
            if now:
                raise
            lacks.append(str(refusal))
            return None

    by_volume = terms.route == "volume"
    bucket = None if by_volume else needed(lambda: _bucket(store, provider))
    kinds = [Kind.INSTANCE, Kind.FIREWALL, Kind.SCRIPT, *([Kind.KEY] if bucket else [])]
    if by_volume:
        kinds.append(Kind.VOLUME)
    provider.check(kinds)
    offers = provider.offers(plan=terms.plan, region=terms.region)
    preparers = _preparers(terms, provider)
    if preparers:
        offers = _beside(preparers, offers)
    region = offers[0].region
    plan = Plan(
        provider=provider,
        clock=clock,
        terms=terms,
        offers=tuple(offers),
        hours=math.ceil(train_hours) + _OVERHEAD_HOURS,
        ssh_from=needed(lambda: _ways_in(terms, provider)) or (),
        bucket=bucket,
        endpoint=os.environ.get("AWS_ENDPOINT_URL", ""),
        preparers=preparers,
        volume_price=_volume_price(provider, terms, region) if by_volume else 0.0,
    )
    if terms.reaper:
        needed(lambda: must_be_watched(store, clock.now()), now=rent_now and not goes_on)
    if rent_now and bucket:
        probe(store)
    within = _affordable(plan)
    regions = list(dict.fromkeys(offer.region for offer in within))
    plan = replace(
        plan,
        offers=within,
        preparers=_in_order_of(regions, preparers),
        monthly=needed(lambda: monthly_budget(store, clock), now=not goes_on),
        lacks=tuple(lacks),
    )
    if plan.monthly and not goes_on:
        plan.monthly.must_pay_for(plan.worst_case)
    return plan


def smoke_plan(terms: RentalTerms, store: Store) -> Plan:
    """A rental of two hours at the most, whatever the terms' budget; see `make_plan`."""
    plan = make_plan(terms, SMOKE_HOURS - _OVERHEAD_HOURS, store)
    budget = SMOKE_HOURS * max(offer.dollars_per_hour for offer in plan.offers)
    return replace(plan, terms=terms.model_copy(update={"budget": budget}))


def _preparers(terms: RentalTerms, provider: Linode) -> tuple[Offer, ...]:
    """Machines that could prepare the data, best first; none where this computer does."""
    if terms.prepare_on != "linode" and terms.route == "bucket":
        return ()
    offers = provider.offers(plan=terms.prepare_plan, region=terms.region)
    free = tuple(offer for offer in offers if offer.available is not False)
    if not free:
        raise NoCapacity(
            f"No {terms.prepare_plan} is free to prepare the data; try later, or --region."
        )
    return free


def _beside(preparers: tuple[Offer, ...], offers: list[Offer]) -> list[Offer]:
    """Offers in the regions of these machines: a Volume cannot leave its region."""
    regions = {offer.region for offer in preparers}
    within = [offer for offer in offers if offer.region in regions]
    if not within:
        raise NoCapacity(
            f"No region has both a free {preparers[0].plan} and {offers[0].plan}; name another "
            "--plan, or prepare with --prepare-on local."
        )
    return within


def _in_order_of(regions: list[str], offers: tuple[Offer, ...]) -> tuple[Offer, ...]:
    """Offers in these regions: what is rented first is rented where the best of the others is."""
    there = [offer for offer in offers if offer.region in regions]
    return tuple(sorted(there, key=lambda offer: regions.index(offer.region)))


def _volume_price(provider: Linode, terms: RentalTerms, region: str) -> float:
    price = provider.price(Thing(Kind.VOLUME, 0, "", region=region, size_gb=terms.volume_gb))
    if price is None:
        raise Failure(Cause.BUDGET, f"Linode names no price for a Volume in {region}.")
    return price


def _affordable(plan: Plan) -> tuple[Offer, ...]:
    """The plan's offers whose first hour the budget pays for. Raises Failure(BUDGET)."""
    budget = plan.terms.budget
    within = tuple(offer for offer in plan.offers if plan.first_hour_of(offer) <= budget)
    if not within:
        cheapest = min(plan.offers, key=plan.first_hour_of)
        raise Failure(
            Cause.BUDGET,
            f"The budget (${budget:.2f}) does not pay for the first hour: the cheapest offer, "
            f"{cheapest.plan}, is ${plan.first_hour_of(cheapest):.2f}. Give more with --budget.",
        )
    if plan.terms.plan is None:  # who named none expects about what is shown first
        most = _DEARER * min(offer.dollars_per_hour for offer in within)
        within = tuple(offer for offer in within if offer.dollars_per_hour <= most)
    return within


def _bucket(store: Store, provider: Linode) -> str | None:
    if store.url.startswith("s3://"):
        if not os.environ.get("AWS_ENDPOINT_URL"):
            raise InputError(
                f"Name the server of {store.url} in AWS_ENDPOINT_URL, like "
                "https://us-ord-1.linodeobjects.com: the machine's key is made for it."
            )
        return bucket_of(store.url)[0]
    if provider.here:  # a rehearsal's machines see the folder
        return None
    raise InputError(
        f"A rented machine cannot see {store.url}: give a bucket in the provider's object storage, "
        "--store s3://BUCKET/PREFIX, with its key in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
        "and its server in AWS_ENDPOINT_URL."
    )


def _ways_in(terms: RentalTerms, provider: Linode) -> tuple[str, ...]:
    if terms.ssh_from:
        return terms.ssh_from
    if provider.here:
        return ("127.0.0.0/8",)
    raise InputError(
        "Say where this computer comes from, as the provider sees it: --ssh-from 203.0.113.7/32, "
        "or VOC_TRAIN_SSH_FROM. Nothing else will reach the machine."
    )


def deadline_in_words(until: datetime) -> str:
    """A deadline for people, in their own time."""
    return f"{until.astimezone():%a %d %b %H:%M %Z}"
