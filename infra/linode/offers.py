"""Which machines could be rented where, at what price: Linode's catalogue read as offers."""

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from infra.provider import Offer, Refused

Item = Mapping[str, Any]

# Without them a machine here would have no address, no host key of ours, or no firewall.
_NEEDED = {"Linodes", "Metadata", "Cloud Firewall"}
_ORDER = {True: 0, None: 1, False: 2}


def rank_offers(
    types: Sequence[Item],
    regions: Sequence[Item],
    availability: Iterable[Item],
    *,
    plan: str | None,
    region: str | None,
) -> list[Offer]:
    """`Provider.offers`, from what the API lists."""
    _must_exist("plan", plan, {str(item["id"]) for item in types})
    _must_exist("region", region, {str(item["id"]) for item in regions})
    free = {(row["region"], row["plan"]): bool(row["available"]) for row in availability}
    wanted = [item for item in types if (item["id"] == plan if plan else item["gpus"] > 0)]
    pairs = [(item, place) for item in wanted for place in regions if _fits(item, place)]
    if region:
        elsewhere = sorted({str(place["id"]) for _, place in pairs})
        pairs = [(item, place) for item, place in pairs if place["id"] == region]
        if wanted and not pairs:
            what = plan or "any machine with a GPU"
            raise Refused(f"Region {region} cannot have {what}; these can: {_some(elsewhere)}.")
    offers = [
        Offer(
            plan=item["id"],
            title=item["label"],
            region=place["id"],
            dollars_per_hour=price,
            gpus=item["gpus"],
            vcpus=item["vcpus"],
            memory_mb=item["memory"],
            disk_mb=item["disk"],
            available=free.get((place["id"], item["id"])) if place["status"] == "ok" else False,
        )
        for item, place in pairs
        if (price := hourly_price(item, place["id"])) is not None
    ]
    if pairs and not offers:
        what = plan or "machines with a GPU"
        raise Refused(
            f"Linode names no price for {what}, and what may cost anything is not rented: see "
            "whether this account has access to it, or choose another plan."
        )
    return sorted(offers, key=lambda o: (_ORDER[o.available], o.dollars_per_hour, o.region, o.plan))


def hourly_price(item: Item, region: str) -> float | None:
    """Dollars an hour of a type of instance or of a GB of Volume; None where it is not known.

    The public catalogue has shown GPU plans at 0: no price, that is, and not a gift.
    """
    try:
        own = [price for price in item.get("region_prices") or [] if price["id"] == region]
        price = float((own[0] if own else item["price"])["hourly"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return price if price > 0 else None


def _fits(item: Item, place: Item) -> bool:
    needed = _NEEDED | {"GPU Linodes"} if item["gpus"] else _NEEDED
    return needed <= set(place["capabilities"])


def _must_exist(word: str, name: str | None, known: Collection[str]) -> None:
    if name is not None and name not in known:
        near = difflib.get_close_matches(name, sorted(known), n=5, cutoff=0.4)
        there = f"near to it are {_some(near)}" if near else f"it has {_some(sorted(known))}"
        raise Refused(f"Linode has no {word} {name}; {there}.")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8]) or "none"
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown
