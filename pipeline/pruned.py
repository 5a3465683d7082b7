"""A run that was pruned: its records are left, and a note that says since when."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from infra.protocol import run_key
from infra.stores import Store

PRUNED = "pruned.json"  # beside a run's record, once its checkpoints are being deleted


class Pruned(BaseModel):
    """`runs/<run>/pruned.json`: it is no longer whole, and protects nothing any more."""

    model_config = ConfigDict(frozen=True)

    time: datetime
    why: str

    @property
    def said(self) -> str:
        """What has become of the run."""
        return f"pruned on {self.time:%Y-%m-%d}: its checkpoints were deleted, its records stay"


def pruned(store: Store, run_id: str) -> Pruned | None:
    """The note, where there is one that can be read; whoever goes on with the run leaves it."""
    return store.read_whole(run_key(run_id, PRUNED), Pruned)
