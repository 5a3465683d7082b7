"""What is offered: where the machine can be, what it costs there, and the best first."""

from typing import Any

import pytest

from infra.linode.offers import hourly_price, rank_offers
from infra.provider import Offer, Refused

Item = dict[str, Any]


def plan(id: str, hourly: float | None, gpus: int = 1, **regions: float | None) -> Item:
    """A type; `regions` have prices of their own (with _ for -)."""
    return {
        "id": id,
        "label": f"the {id}",
        "price": {"hourly": hourly, "monthly": 1000},
        "region_prices": [
            {"id": name.replace("_", "-"), "hourly": price, "monthly": 1}
            for name, price in regions.items()
        ],
        "gpus": gpus,
        "vcpus": 4,
        "memory": 16384,
        "disk": 524288,
    }


def place(id: str, *more: str, status: str = "ok") -> Item:
    return {
        "id": id,
        "status": status,
        "capabilities": ["Linodes", "Metadata", "Cloud Firewall", *more],
    }


def row(region: str, plan: str, available: bool) -> Item:
    return {"region": region, "plan": plan, "available": available}


SMALL, BIG, CPU = plan("gpu-small", 0.5), plan("gpu-big", 1.5), plan("cpu", 0.1, gpus=0)
CHICAGO = place("us-ord", "GPU Linodes")
OSAKA = place("jp-osa", "GPU Linodes")
MILAN = place("it-mil")


def offers(
    types: list[Item],
    regions: list[Item],
    *rows: Item,
    plan: str | None = None,
    region: str | None = None,
) -> list[tuple[str, str, bool | None]]:
    ranked = rank_offers(types, regions, rows, plan=plan, region=region)
    return [(offer.plan, offer.region, offer.available) for offer in ranked]


def test_an_offer_says_what_the_machine_is() -> None:
    (offer,) = rank_offers([SMALL], [CHICAGO], [row("us-ord", "gpu-small", True)], plan=None,
                           region=None)  # fmt: skip

    assert offer == Offer("gpu-small", "the gpu-small", "us-ord", 0.5, 1, 4, 16384, 524288, True)


def test_free_ones_come_first_then_cheap_ones_then_by_name() -> None:
    found = offers(
        [BIG, SMALL],
        [CHICAGO, OSAKA],
        row("us-ord", "gpu-big", True),
        row("jp-osa", "gpu-small", False),
    )

    assert found == [
        ("gpu-big", "us-ord", True),
        ("gpu-small", "us-ord", None),
        ("gpu-big", "jp-osa", None),
        ("gpu-small", "jp-osa", False),
    ]
    assert offers([SMALL], [CHICAGO, OSAKA]) == [
        ("gpu-small", "jp-osa", None),
        ("gpu-small", "us-ord", None),
    ]


def test_a_gpu_is_where_gpus_are_and_a_named_plan_may_have_none() -> None:
    everything = [SMALL, CPU], [CHICAGO, MILAN]

    assert offers(*everything) == [("gpu-small", "us-ord", None)]
    assert offers(*everything, plan="cpu") == [("cpu", "it-mil", None), ("cpu", "us-ord", None)]
    with pytest.raises(Refused, match="it-mil cannot have any machine with a GPU.*us-ord"):
        offers(*everything, region="it-mil")


@pytest.mark.parametrize("missing", ["Linodes", "Metadata", "Cloud Firewall"])
def test_a_region_that_lacks_what_a_machine_needs_is_left_out(missing: str) -> None:
    bare = place("us-ord", "GPU Linodes")
    bare["capabilities"].remove(missing)

    assert offers([SMALL], [bare, OSAKA]) == [("gpu-small", "jp-osa", None)]


def test_a_region_that_is_out_has_nothing_free() -> None:
    out = place("us-ord", "GPU Linodes", status="outage")

    assert offers([SMALL], [out], row("us-ord", "gpu-small", True)) == [
        ("gpu-small", "us-ord", False)
    ]


def test_a_region_may_have_a_price_of_its_own() -> None:
    dear = plan("gpu-small", 0.5, jp_osa=0.7)

    ranked = rank_offers([dear], [CHICAGO, OSAKA], [], plan=None, region=None)

    assert [(offer.region, offer.dollars_per_hour) for offer in ranked] == [
        ("us-ord", 0.5),
        ("jp-osa", 0.7),
    ]


@pytest.mark.parametrize("nothing", [0, 0.0, None, -1, float("nan")])
def test_no_price_is_no_offer(nothing: float | None) -> None:
    unknown = plan("gpu-big", nothing)

    assert hourly_price(unknown, "us-ord") is None
    assert hourly_price({"price": nothing}, "us-ord") is None
    assert hourly_price(plan("gpu-big", 1.5, us_ord=nothing), "us-ord") is None
    assert offers([unknown, SMALL], [CHICAGO]) == [("gpu-small", "us-ord", None)]
    with pytest.raises(Refused, match="no price"):
        offers([unknown], [CHICAGO])
    with pytest.raises(Refused, match="no price for gpu-big"):
        offers([unknown, SMALL], [CHICAGO], plan="gpu-big")


def test_what_does_not_exist_is_refused_with_what_is_like_it() -> None:
    with pytest.raises(Refused, match="no plan gpu-smal; near to it are gpu-small"):
        offers([SMALL, CPU], [CHICAGO], plan="gpu-smal")
    with pytest.raises(Refused, match="no region us-order; near to it are us-ord"):
        offers([SMALL], [CHICAGO, MILAN], region="us-order")
