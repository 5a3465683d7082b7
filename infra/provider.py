"""A provider of machines by the hour: five calls, and what they promise.

Every call returns at once: what it asked for happens later, and shows in `get` and `list`. Every
name is on the provider's side, so that whoever lost its memory can find everything again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from infra.failure import Cause, Failure


class Kind(StrEnum):
    """What can be created, and has to be gone afterwards."""

    INSTANCE = "instance"
    VOLUME = "volume"
    FIREWALL = "firewall"
    KEY = "key"  # of object storage; carries no tags
    SCRIPT = "stackscript"  # carries no tags


# A machine first: it costs most, and its Volume and firewall are free only without it.
DELETION_ORDER = (Kind.INSTANCE, Kind.VOLUME, Kind.KEY, Kind.FIREWALL, Kind.SCRIPT)


@dataclass(frozen=True)
class Endpoint:
    """Where a machine's sshd listens, and who may log in."""

    host: str
    port: int = 22
    user: str = "root"


@dataclass(frozen=True)
class Offer:
    """A machine that could be had. `available` is None where the provider does not say."""

    plan: str
    title: str
    region: str
    dollars_per_hour: float
    gpus: int
    vcpus: int
    memory_mb: int
    disk_mb: int
    available: bool | None


@dataclass(frozen=True)
class InstanceOrder:
    """A machine to rent. Whoever holds the private half of `authorized_key` may log in."""

    label: str
    tags: tuple[str, ...]
    plan: str
    region: str
    authorized_key: str  # one line, OpenSSH's format
    user_data: str = field(repr=False)  # cloud-config, with the host's private key
    firewall: int
    script: int | None = None
    script_data: dict[str, str] = field(default_factory=dict)

    kind = Kind.INSTANCE


@dataclass(frozen=True)
class VolumeOrder:
    """A disk that outlives the machines it is attached to."""

    label: str
    tags: tuple[str, ...]
    region: str
    size_gb: int

    kind = Kind.VOLUME


@dataclass(frozen=True)
class FirewallOrder:
    """Lets SSH in from these networks (CIDR), nothing else; everything may go out."""

    label: str
    tags: tuple[str, ...]
    ssh_from: tuple[str, ...]

    kind = Kind.FIREWALL


@dataclass(frozen=True)
class KeyOrder:
    """A key of object storage that may read and write one bucket."""

    label: str
    bucket: str
    endpoint: str  # URL of the S3 server, as AWS_ENDPOINT_URL has it

    kind = Kind.KEY


@dataclass(frozen=True)
class ScriptOrder:
    """A script that a machine runs once, when it boots first."""

    label: str
    script: str
    description: str

    kind = Kind.SCRIPT


Order = InstanceOrder | VolumeOrder | FirewallOrder | KeyOrder | ScriptOrder


@dataclass(frozen=True)
class Thing:
    """Something that exists at the provider, as it was seen last."""

    kind: Kind
    id: int
    label: str
    tags: frozenset[str] = frozenset()
    created: datetime | None = None  # UTC; None where the provider does not say
    state: str = ""  # the provider's own word
    region: str = ""
    plan: str = ""
    endpoint: Endpoint | None = None  # of an instance
    attached_to: int | None = None  # a volume: the instance's id
    ready: bool = False  # an instance that runs, a volume that can be written
    size_gb: int = 0  # of a volume
    text: str = field(default="", repr=False)  # of a script
    description: str = ""  # of a script
    buckets: tuple[str, ...] = ()  # that a key is limited to; empty where it opens all of them


@dataclass(frozen=True)
class BucketKey:
    """A new key with its secret, which the provider shows this once."""

    thing: Thing
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)


@dataclass(frozen=True)
class Charge:
    """A line of an invoice, before tax; `text` is the provider's own, and names what it is for."""

    text: str
    begun: datetime  # UTC; of the time that is paid for
    dollars: float


@dataclass(frozen=True)
class Statement:
    """What the provider itself charges: line by line where it was invoiced, then in one sum."""

    charges: tuple[Charge, ...]
    invoiced: datetime | None  # when the last invoice was made; None without one
    uninvoiced: float  # dollars since, of the whole account


class NoCapacity(Failure):
    """The provider has no such machine free just now: ask for another offer."""

    def __init__(self, message: str) -> None:
        super().__init__(Cause.NO_CAPACITY, message)


class Refused(Failure):
    """The provider understood and said no; nothing was done, and asking again will not help."""

    def __init__(self, message: str, cause: Cause = Cause.BAD_INPUT) -> None:
        super().__init__(cause, message, permanent=True)


class Unauthorised(Refused):
    """The token is wrong, has expired, or may not do this."""


class Unclear(Failure):
    """No answer, or one that says nothing: the call may have done its work or not."""

    def __init__(self, message: str) -> None:
        super().__init__(Cause.PROVIDER, message)


class Provider(Protocol):
    """Where machines can be rented."""

    def check(self, kinds: Sequence[Kind]) -> None:
        """See whether the token may create, tag and delete these kinds.

        Creates nothing. Raises Unauthorised, which says what is missing.
        """

    def offers(self, *, plan: str | None = None, region: str | None = None) -> list[Offer]:
        """What could be rented, best first: those known to be free, then by price.

        Without a `plan`, machines with one GPU or more. Raises Refused for a plan or region that
        does not exist, and where no price is known: a price of 0 is no price.
        """

    def create(self, order: Order) -> Thing | BucketKey:
        """Ask for one thing, once; a BucketKey for a KeyOrder.

        Raises NoCapacity or Refused when nothing was created, Unclear when something may have been:
        look for the label before asking again.
        """

    def list(self, kind: Kind, *, label: str | None = None, tag: str | None = None) -> list[Thing]:
        """Everything of a kind that is there, all pages; only with this label, only with this tag.

        Raises Unclear rather than leave something out.
        """

    def get(self, kind: Kind, id: int) -> Thing | None:
        """One thing, or None when there is none: absent is an answer, not an error."""

    def delete(self, kind: Kind, id: int) -> None:
        """Ask for one thing to be gone; absent already is a success.

        It is gone when `list` no longer shows it; until then call again. A volume is detached
        first. Raises Unclear where it cannot be said whether that was heard.
        """

    def price(self, thing: Thing) -> float | None:
        """Dollars an hour that it costs while it exists; None where that is not known."""

    def statement(self, since: datetime) -> Statement:
        """What it charges by the invoices that it made `since` then, and has not invoiced yet.

        Raises Unauthorised where the token may not see that.
        """
