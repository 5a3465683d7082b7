"""What can be had, where, and for how much: plans, regions, stock, images, storage endpoints.

Prices are Linode's own of 2026; the blend of plans and regions is a small part of the real one.
"""

from typing import Any

from infra.simulator.answers import JSON, Refusal, invalid

# id, label, class, vCPUs, memory MB, disk MB, GPUs, transfer GB, network Mbit/s, $/hour, $/month
_PLANS: list[tuple[str, str, str, int, int, int, int, int, int, float, float]] = [
    ("g6-nanode-1", "Nanode 1GB", "nanode", 1, 1024, 25600, 0, 1000, 1000, 0.0075, 5.0),
    ("g6-standard-1", "Linode 2GB", "standard", 1, 2048, 51200, 0, 2000, 2000, 0.018, 12.0),
    ("g6-standard-2", "Linode 4GB", "standard", 2, 4096, 81920, 0, 4000, 4000, 0.036, 24.0),
    ("g6-standard-4", "Linode 8GB", "standard", 4, 8192, 163840, 0, 5000, 5000, 0.072, 48.0),
    ("g6-standard-6", "Linode 16GB", "standard", 6, 16384, 327680, 0, 8000, 6000, 0.144, 96.0),
    ("g6-dedicated-2", "Dedicated 4GB", "dedicated", 2, 4096, 81920, 0, 4000, 4000, 0.054, 36.0),
    ("g6-dedicated-4", "Dedicated 8GB", "dedicated", 4, 8192, 163840, 0, 5000, 5000, 0.108, 72.0),
    ("g7-premium-2", "Premium 4GB", "premium", 2, 4096, 81920, 0, 4000, 4000, 0.0645, 43.0),
    ("g7-premium-4", "Premium 8GB", "premium", 4, 8192, 163840, 0, 5000, 5000, 0.129, 86.0),
]
_GPU_PLANS: list[tuple[str, str, str, int, int, int, int, int, int, float, float]] = [
    (
        f"g1-gpu-rtx6000-{gpus}",
        f"Dedicated {32 * gpus}GB + RTX6000 GPU x{gpus}",
        "gpu",
        (8, 16, 20, 24)[gpus - 1],
        32768 * gpus,
        655360 * gpus,
        gpus,
        min(16000 * gpus, 20000),
        10000,
        1.5 * gpus,
        1000.0 * gpus,
    )
    for gpus in (1, 2, 3, 4)
] + [
    ("g2-gpu-rtx4000a1-s", "RTX4000 Ada x1 Small", "gpu", 4, 16384, 524288, 1, 0, 10000, 0.52, 350),
    (
        "g2-gpu-rtx4000a2-s",
        "RTX4000 Ada x2 Small",
        "gpu",
        8,
        32768,
        1048576,
        2,
        0,
        10000,
        1.05,
        700,
    ),
    (
        "g2-gpu-rtx4000a4-s",
        "RTX4000 Ada x4 Small",
        "gpu",
        48,
        200704,
        2097152,
        4,
        0,
        10000,
        2.96,
        1976,
    ),
]

# Where things cost more than elsewhere: the factor on the plan's price.
_DEARER = {"id-cgk": 1.2, "br-gru": 1.4}
VOLUME_PRICE = 0.00015  # dollars an hour for a GB

_COMMON = [
    "Linodes",
    "Block Storage Encryption",
    "Disk Encryption",
    "Backups",
    "NodeBalancers",
    "Block Storage",
    "Kubernetes",
    "Cloud Firewall",
    "Vlans",
    "VPCs",
    "Metadata",
    "Premium Plans",
    "Placement Group",
    "StackScripts",
    "Maintenance Policy",
    "Linode Interfaces",
]
# id, label, country, has GPUs, object storage's endpoint and type
_REGIONS: list[tuple[str, str, str, bool, str | None, str]] = [
    ("us-ord", "Chicago, IL", "us", True, "us-ord-1.linodeobjects.com", "E1"),
    ("us-sea", "Seattle, WA", "us", True, "us-sea-1.linodeobjects.com", "E1"),
    ("us-southeast", "Atlanta, GA", "us", True, "us-southeast-1.linodeobjects.com", "E0"),
    ("us-east", "Newark, NJ", "us", True, "us-east-1.linodeobjects.com", "E0"),
    ("us-mia", "Miami, FL", "us", True, "us-mia-1.linodeobjects.com", "E1"),
    ("fr-par", "Paris, FR", "fr", True, "fr-par-1.linodeobjects.com", "E1"),
    ("gb-lon", "London 2, UK", "gb", True, "gb-lon-1.linodeobjects.com", "E3"),
    ("jp-osa", "Osaka, JP", "jp", True, None, ""),
    ("id-cgk", "Jakarta, ID", "id", True, "id-cgk-1.linodeobjects.com", "E1"),
    ("br-gru", "Sao Paulo, BR", "br", False, "br-gru-1.linodeobjects.com", "E1"),
    ("au-mel", "Melbourne, AU", "au", False, None, ""),
    ("us-central", "Dallas, TX", "us", False, None, ""),
]
# Where a GPU is free; a plan that no list of stock names is one nobody knows about.
_STOCK = {
    "g1-gpu-rtx6000": {"us-southeast"},
    "g2-gpu-rtx4000": {"us-ord", "us-sea", "fr-par", "jp-osa"},
    "g7-premium": {"us-ord", "us-sea", "us-mia", "fr-par", "gb-lon", "jp-osa"},
}
IMAGES = {
    "linode/ubuntu24.04": "Ubuntu 24.04 LTS",
    "linode/ubuntu22.04": "Ubuntu 22.04 LTS",
    "linode/debian12": "Debian 12",
}
PLANS = {row[0]: row for row in _PLANS + _GPU_PLANS}
REGIONS = {row[0]: row for row in _REGIONS}


def _price(hourly: float, monthly: float) -> JSON:
    return {"hourly": hourly, "monthly": monthly}


def _region_prices(hourly: float, monthly: float) -> list[JSON]:
    return [
        {"id": region, "hourly": round(hourly * factor, 5), "monthly": round(monthly * factor, 2)}
        for region, factor in _DEARER.items()
    ]


def plan(id: str) -> JSON:
    """A plan as the API shows it. Raises a 404 Refusal."""
    if id not in PLANS:
        raise Refusal("Not found", status=404)
    _, label, kind, vcpus, memory, disk, gpus, transfer, network, hourly, monthly = PLANS[id]
    dear = [] if kind == "gpu" else _region_prices(hourly, monthly)
    return {
        "id": id,
        "label": label,
        "price": _price(hourly, float(monthly)),
        "region_prices": dear,
        "addons": {"backups": {"price": _price(0.003, 2.0), "region_prices": []}},
        "memory": memory,
        "disk": disk,
        "transfer": transfer,
        "vcpus": vcpus,
        "gpus": gpus,
        "network_out": network,
        "class": kind,
        "successor": None,
        "accelerated_devices": 0,
    }


def region(id: str) -> JSON:
    """A region as the API shows it. Raises a 404 Refusal."""
    if id not in REGIONS:
        raise Refusal("Not found", status=404)
    _, label, country, gpus, endpoint, _ = REGIONS[id]
    capabilities = _COMMON + ["GPU Linodes"] * gpus + ["Object Storage"] * bool(endpoint)
    return {
        "id": id,
        "label": label,
        "country": country,
        "capabilities": capabilities,
        "monitors": {"alerts": ["Object Storage"], "metrics": ["Object Storage"]},
        "status": "ok",
        "resolvers": {"ipv4": "192.0.2.53", "ipv6": "2001:db8::53"},
        "placement_group_limits": {
            "maximum_pgs_per_customer": None,
            "maximum_linodes_per_pg": 5,
            "maximum_linodes_per_flexible_pg": 5,
        },
        "site_type": "core",
    }


def availability(where: str | None = None) -> list[JSON]:
    """Stock of GPU and premium plans, in one region or in all."""
    return [
        {"region": id, "plan": plan_id, "available": id in stocked}
        for id in ([where] if where else REGIONS)
        for plan_id in PLANS
        for prefix, stocked in _STOCK.items()
        if plan_id.startswith(prefix)
    ]


def has_stock(plan_id: str, where: str) -> bool:
    """Whether a machine can be had: always, where the lists of stock say nothing."""
    rows = [row for row in availability(where) if row["plan"] == plan_id]
    return all(row["available"] for row in rows)


def hourly(price: JSON, region_prices: list[JSON], where: str) -> float:
    """Dollars an hour in a region."""
    own = [row["hourly"] for row in region_prices if row["id"] == where]
    return float(own[0] if own else price["hourly"])


def plan_price(plan_id: str, where: str) -> float:
    """Dollars an hour for a machine."""
    shown = plan(plan_id)
    return hourly(shown["price"], shown["region_prices"], where)


def volume_type() -> JSON:
    """What a GB of a Volume costs."""
    return {
        "id": "volume",
        "label": "Storage Volume",
        "price": _price(VOLUME_PRICE, 0.1),
        "region_prices": _region_prices(VOLUME_PRICE, 0.1),
        "transfer": 0,
    }


def volume_price(size_gb: int, where: str) -> float:
    """Dollars an hour for a Volume."""
    shown = volume_type()
    return size_gb * hourly(shown["price"], shown["region_prices"], where)


def image(id: str) -> JSON:
    """An image as the API shows it. Raises a 404 Refusal."""
    if id not in IMAGES:
        raise Refusal("Not found", status=404)
    return {
        "id": id,
        "label": IMAGES[id],
        "vendor": IMAGES[id].split()[0],
        "is_public": True,
        "deprecated": False,
        "status": "available",
        "type": "manual",
        "size": 3000,
        "capabilities": ["cloud-init"],
        "tags": [],
        "regions": [],
    }


def endpoints() -> list[JSON]:
    """Where object storage answers."""
    return [
        {"region": id, "endpoint_type": kind, "s3_endpoint": endpoint}
        for id, _, _, _, endpoint, kind in _REGIONS
        if endpoint
    ]


def quotas(rows: list[JSON]) -> list[JSON]:
    """What an account may store at each endpoint; the limits are those of type E0 and E1."""
    kinds: list[tuple[str, str, int, Any]] = [
        ("obj-bytes", "Total Capacity", 100 * 2**40, "byte"),
        ("obj-objects", "Number of Objects", 100_000_000, "object"),
        ("obj-buckets", "Number of Buckets", 1000, "bucket"),
    ]
    return [
        {
            "quota_id": f"{kind}-{row['s3_endpoint']}",
            "quota_name": name,
            "quota_type": kind,
            "endpoint_type": row["endpoint_type"],
            "s3_endpoint": row["s3_endpoint"],
            "description": f"{name} per account, per endpoint",
            "quota_limit": limit,
            "resource_metric": metric,
            "has_usage": True,
        }
        for row in rows
        for kind, name, limit, metric in kinds
    ]


def check_region(id: object) -> str:
    """A region's id out of a request. Raises a Refusal."""
    if not isinstance(id, str) or id not in REGIONS:
        raise invalid("region")
    return id
