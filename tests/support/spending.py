"""Runs that rented something once, as their notes in a store tell."""

from datetime import datetime, timedelta
from typing import Any, Self

from infra.intents import Intent, Intents
from infra.ownership import label
from infra.protocol import now
from infra.provider import Kind, Thing
from infra.receipt import receipt, write_receipt
from infra.stores import Store
from pipeline.run_record import RunRecord

PRICE = 0.52  # dollars an hour


def record(store: Store, run_id: str, state: str = "running", **values: Any) -> None:
    """What the controller of a run wrote of it."""
    parameters = {"recipe": "tiny", "machine": "linode"} | values.pop("parameters", {})
    described = {"run_id": run_id, "state": state, "started": now(), "parameters": parameters}
    written = RunRecord.model_validate(described | values)
    store.put(f"runs/{run_id}/run.json", written.model_dump_json().encode())


def rented(
    store: Store,
    run_id: str,
    created: datetime | None,
    *,
    intended: datetime | None = None,
    hours: float | None = None,
    lease: float = 9,
    with_receipt: bool = False,
    number: int = 1,
    price: float = PRICE,
) -> Intent:
    """A machine, gone after some `hours`, or there still; not known to be created without that."""
    begun = created or intended
    assert begun
    machine = Intent(
        kind=Kind.INSTANCE,
        label=label(run_id, "t", number),
        time=begun,
        until=begun + timedelta(hours=lease),
        dollars_per_hour=price,
    )
    firewall = Intent(kind=Kind.FIREWALL, label=label(run_id, "f", number), time=begun, until=begun)
    intents = Intents.load(store, run_id)
    for intent in (machine, firewall):
        intents.intend(intent)
        if created:
            intents.created(intent, Thing(intent.kind, number, intent.label, created=created))
        if hours is not None:
            intents.ended(intent, begun + timedelta(hours=hours), "seen gone")
    if with_receipt:
        write_receipt(store, receipt(run_id, intents.entries(), now()))
    return machine


class CountingStore(Store):
    """A store in a folder that counts what a bucket would be asked."""

    requests = 0  # a little less where they come at once

    @classmethod
    def of(cls, store: Store) -> Self:
        folder = store.local_path("")
        assert folder
        return cls(store.url, folder)

    def get(self, key: str) -> bytes | None:
        self.requests += 1
        return super().get(key)

    def list(self, prefix: str) -> Any:
        self.requests += 1
        return super().list(prefix)

    def folders(self, prefix: str) -> tuple[str, ...]:
        self.requests += 1
        return super().folders(prefix)
