"""Three old runs in a store, a prune of it, and what that left."""

from collections.abc import Callable, Iterable

from infra.stores import Store
from pipeline.holdings import survey
from pipeline.pruning import Plan, Terms, prune, what_may_go
from stored import keys, make_older, put_archive, put_dataset, put_run

RECORDS = {"run.json", "receipt.json", "pruned.json"}
NONE = Terms(keep=0)


def three_old_runs(store: Store) -> Store:
    """Each has a dataset of its own from an archive of its own; `c` is the newest."""
    for days, name in ((30, "a"), (20, "b"), (10, "c")):
        put_archive(store, name)
        put_dataset(store, f"d{name}", name)
        put_run(store, f"run-{name}", days=days, dataset=f"d{name}", archives=name)
    make_older(store, 8)
    return store


def plan_of(store: Store, terms: Terms = NONE) -> Plan:
    return what_may_go(survey(store), terms)


def pruned(store: Store, terms: Terms = NONE) -> set[tuple[str, str]]:
    """Do it; returns what has gone."""
    held = survey(store)
    return {(i.kind, i.name) for i in prune(store, what_may_go(held, terms), held, terms)}


def left_of(store: Store, run_id: str) -> set[str]:
    return {key.removeprefix(f"runs/{run_id}/") for key in keys(store, f"runs/{run_id}")}


def is_whole(store: Store, run_id: str) -> bool:
    return "checkpoints/00000009/checkpoint.pt" in left_of(store, run_id)


class Eventful(Store):
    """A store in which something happens right before an object is written or deleted."""

    at = ""
    happens: Callable[[], object]

    def put(self, key: str, data: bytes) -> None:
        self._look_at(key)
        super().put(key, data)

    def delete_many(self, keys: Iterable[str]) -> None:
        keys = list(keys)
        self._look_at(*keys)
        super().delete_many(keys)

    def _look_at(self, *keys: str) -> None:
        if self.at and any(self.at in key for key in keys):
            self.at = ""
            self.happens()
