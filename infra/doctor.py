"""What stands between this computer and a rental: everything is looked at, and has a cure.

Nothing is created at the provider; in the store one small object comes and goes.
"""

import os
import re
import shutil
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from email.utils import parsedate_to_datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import httpx

from infra import notifications
from infra.buckets import probe
from infra.clock import Clock
from infra.failure import Cause, Failure
from infra.linode.api import is_here
from infra.provider import Kind, Offer, Provider
from infra.reaper_report import must_be_watched
from infra.ssh.keys import KeyPair
from infra.stores import Store

_SKEW = timedelta(minutes=5)  # S3 refuses a signature that is 15 minutes off
_DISK_GB = 10  # an archive like VOC's, its shards and a few checkpoints
_SECONDS = 10.0  # that a server has to answer
_WANDB_URL = "https://api.wandb.ai"
_WANDB_KEY = re.compile(r"([^-]*-)?[\w-]{40,}", re.ASCII)  # a private server's have a prefix

Settings = Mapping[str, Any]  # as GET /account/settings answers
Part = TypeVar("Part", Provider, Store)


class Finding(NamedTuple):
    """One thing that was looked at. `ok` is None where it is no fault, or cannot be seen."""

    name: str
    ok: bool | None
    said: str
    cure: str = ""  # where `said` does not have it already


class _Seen(NamedTuple):
    ok: bool | None
    said: str
    cure: str = ""


class _Hidden(Exception):
    """Cannot be looked at, because of what another finding is about."""


def examine(
    *,
    provider: Provider | Failure,
    store: Store | Failure,
    clock: Clock,
    home: Path,
    api_url: str,
    api_ca: str | None = None,
    settings: Callable[[], Settings] | None = None,
    plan: str | None = None,
    region: str | None = None,
    ssh_from: Sequence[str] = (),
    ask_wandb: bool = False,
) -> Iterator[Finding]:
    """Look at one thing after the other, each on its own; none of them raises.

    A part that could not even be opened is given as its Failure. api_url: the provider's API, the
    simulator's on a loopback address; api_ca: a PEM file. settings: the account's. ssh_from: the
    networks that may reach a machine, as CIDR. ask_wandb: whether W&B itself may be asked.
    """
    here = is_here(api_url)
    checks: dict[str, Callable[[], _Seen]] = {
        "token": lambda: _token(provider),
        "account": lambda: _account(settings),
        "machines": lambda: _machines(_given(provider, "token").offers(plan=plan, region=region)),
        "object storage": lambda: _object_storage(settings),
        "store": lambda: _store(store, here),
        "reaper": lambda: _reaper(_given(store, "store"), clock),
        "clock": lambda: _clock(clock, api_url, api_ca),
        "SSH": lambda: _ssh(here),
        "SSH from": lambda: _ssh_from(ssh_from, here),
        "W&B": lambda: wandb_key(ask_wandb),
        "messages": _messages,
        "disk": lambda: _disk(home),
        "rehearsal": _rehearsal,
    }
    for name, check in checks.items():
        yield Finding(name, *_looked(check))


def _looked(check: Callable[[], _Seen]) -> _Seen:
    try:
        return check()
    except Failure as failure:
        return _Seen(False, str(failure))
    except _Hidden as hidden:
        return _Seen(None, f"Not looked at: see {hidden}.")
    except Exception as error:  # its text may show what nobody should see
        return _Seen(False, f"Could not be looked at ({type(error).__name__}).")


def _given(part: Part | Failure, name: str) -> Part:
    if isinstance(part, Failure):
        raise _Hidden(name)
    return part


def _token(provider: Provider | Failure) -> _Seen:
    if isinstance(provider, Failure):
        raise provider
    provider.check(list(Kind))
    return _Seen(True, "It may create, tag and delete all that a run needs.")


def _account(settings: Callable[[], Settings] | None) -> _Seen:
    if settings is None:
        raise _Hidden("token")
    names = {"backups_enabled": "Backup Auto Enrollment", "managed": "Linode Managed"}
    costs = " and ".join(words for name, words in names.items() if settings().get(name))
    if not costs:
        return _Seen(True, "Nothing is added to a new machine that costs more.")
    return _Seen(
        False,
        f"{costs} adds its price to every new machine.",
        "Turn it off in Cloud Manager, Account, Settings.",
    )


def _machines(offers: Sequence[Offer]) -> _Seen:
    free = [offer for offer in offers if offer.available is not False]
    if not free:
        said = "None of the offers is free now." if offers else "There is no offer."
        return _Seen(False, said, "Try later, or another region.")
    best = free[0]
    said = (
        f"{best.plan} in {best.region}, ${best.dollars_per_hour:.2f} an hour; "
        f"{len(free)} of {len(offers)} offers may be free."
    )
    if best.available is None:
        return _Seen(None, f"{said} The provider does not say whether this one is.")
    return _Seen(True, said)


def _object_storage(settings: Callable[[], Settings] | None) -> _Seen:
    if settings is None:
        raise _Hidden("token")
    match settings().get("object_storage"):
        case "active":
            return _Seen(True, "It is active.")
        case "suspended":
            return _Seen(False, "It is suspended.", "Look for unpaid bills in Cloud Manager.")
        case _:
            cure = "Make a bucket in Cloud Manager; from then on it is billed by the month."
            return _Seen(False, "It is not active.", cure)


def _store(store: Store | Failure, here: bool) -> _Seen:
    if isinstance(store, Failure):
        raise store
    if not store.url.startswith("s3://") and not here:
        cure = "Give --store s3://BUCKET/PREFIX, and its key in the environment."
        return _Seen(False, f"A rented machine cannot see {store.url}.", cure)
    try:
        probe(store)
    except Failure as failure:
        cure = "Where the bucket is missing, `voc-train doctor --make-bucket` makes it."
        return _Seen(False, str(failure), cure if store.url.startswith("s3://") else "")
    return _Seen(True, f"{store.url} was written, read and emptied again.")


def _reaper(store: Store, clock: Clock) -> _Seen:
    try:
        must_be_watched(store, clock.now())
    except Failure as failure:
        if failure.cause is Cause.STORE:
            raise _Hidden("store") from failure
        raise
    return _Seen(True, "One that deletes has looked within 15 minutes.")


def _clock(clock: Clock, api_url: str, ca: str | None) -> _Seen:
    if clock.speed != 1:
        return _Seen(None, "In a rehearsal time runs faster than it passes.")
    date = _ask("The provider's API", "HEAD", api_url, ca=ca).headers.get("Date")
    if date is None:
        return _Seen(None, "The provider's API does not say what time it is.")
    ahead = (clock.now() - parsedate_to_datetime(date)).total_seconds()
    if abs(ahead) <= _SKEW.total_seconds():
        return _Seen(True, "This computer and the provider agree about the time.")
    side = "ahead of" if ahead > 0 else "behind"
    return _Seen(
        False,
        f"This computer's clock is {abs(ahead) / 60:.0f} minutes {side} the provider's.",
        "Set it, as with `sudo timedatectl set-ntp true`: deadlines and the bill depend on it.",
    )


def _ssh(here: bool) -> _Seen:
    KeyPair.generate()
    if here:
        return _Seen(True, "Keys can be made, and a rehearsal's machines are on this computer.")
    return _Seen(
        None,
        "Keys can be made; whether port 22 is open outwards shows only at the first login.",
        "`voc-train smoke` proves it, on the cheapest machine.",
    )


def _ssh_from(networks: Sequence[str], here: bool) -> _Seen:
    if not networks:
        if here:
            return _Seen(True, "A rehearsal's machines are on this computer.")
        cure = "Give --ssh-from, or VOC_TRAIN_SSH_FROM, like 198.51.100.7/32."
        return _Seen(False, "Nothing says where this computer comes from.", cure)
    for network in networks:
        try:
            named = ip_network(network)
        except ValueError:
            cure = "Write it like 198.51.100.7/32, without host bits."
            return _Seen(False, f"{network!r} is no network.", cure)
        if named.prefixlen == 0:
            cure = "Name the network that you come from."
            return _Seen(False, f"{network} lets everybody try.", cure)
        if not (named.is_global or here):
            cure = "Name the address that the outside sees, as your router shows it."
            return _Seen(False, f"{network} is no address of the public internet.", cure)
    return _Seen(None, f"{', '.join(networks)}: whether you come from there shows at the login.")


def wandb_key(ask: bool) -> _Seen:
    """What is to say of the key for W&B; with `ask` also by W&B itself.

    Raises Failure(PROVIDER) where that does not answer.
    """
    key = os.environ.get("WANDB_API_KEY", "")
    if not key:
        return _Seen(None, "WANDB_API_KEY is not set: runs are recorded offline.")
    cure = "Copy the key anew from your user settings at W&B, or unset WANDB_API_KEY."
    if not _WANDB_KEY.fullmatch(key):
        return _Seen(False, "WANDB_API_KEY is no key of W&B.", cure)
    if not ask:
        return _Seen(None, "WANDB_API_KEY looks like a key; W&B itself was not asked.")
    url = f"{os.environ.get('WANDB_BASE_URL') or _WANDB_URL}/graphql"
    query = {"query": "query { viewer { username } }"}
    answer = _ask("W&B", "POST", url, auth=("api", key), json=query)
    if answer.status_code not in (200, 401, 403):
        raise Failure(Cause.PROVIDER, f"W&B answers with {answer.status_code}: try again later.")
    if answer.status_code != 200 or not answer.json()["data"]["viewer"]:
        return _Seen(False, "W&B does not know the key in WANDB_API_KEY.", cure)
    return _Seen(True, "W&B knows the key in WANDB_API_KEY.")


def _messages() -> _Seen:
    if not notifications.wanted():
        return _Seen(None, f"Nobody is told how a run ends: {notifications.VARIABLE} is not set.")
    found = notifications.check()
    if found.said:
        cure = "Mend it; Apprise's documentation has each service's URL."
        return _Seen(False, f"In {notifications.VARIABLE}, {found.said}.", cure)
    named = ", ".join(found.took)
    return _Seen(True, f"{named} would be told; `voc-train notify` sends a message to try it.")


def _disk(home: Path) -> _Seen:
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(there).free / 1e9
    said = f"{free:.1f} GB are free for {home}"
    if free >= _DISK_GB:
        return _Seen(True, f"{said}.")
    return _Seen(False, f"{said}; a run may need {_DISK_GB}.", "Free some, or set VOC_TRAIN_HOME.")


def _rehearsal() -> _Seen:
    # Only here: a rental needs nothing of the simulator.
    from infra.simulator.machine import must_be_possible

    try:
        must_be_possible()
    except Failure as failure:  # which keeps nobody from renting
        return _Seen(None, str(failure))
    return _Seen(True, "This computer can rehearse a rental with `voc-train rehearse`.")


def _ask(who: str, method: str, url: str, *, ca: str | None = None, **more: Any) -> httpx.Response:
    """One request; any answer will do. Raises Failure where there is none."""
    try:
        trust = ssl.create_default_context(cafile=ca)
        with httpx.Client(verify=trust, timeout=_SECONDS, trust_env=not is_here(url)) as client:
            return client.request(method, url, **more)
    except (httpx.TransportError, httpx.InvalidURL, OSError) as error:
        reason = type(error).__name__
        raise Failure(
            Cause.PROVIDER, f"{who} does not answer ({reason}): check the network."
        ) from None
