"""One rental of a GPU at a time: who comes next waits until there is a place, and says so.

The places are a global concurrency limit at the Prefect server, made by `voc-train setup`. They are
not leased, since a Prefect server that restarts forgets its leases, and their places stay taken for
ever. Whether the holder of a place still lives is told by its flow run: it is in the state Renting
until it has ended, or has been found silent (`automations.yaml`). The first of those who wait gives
a place free that nobody has.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

import httpx
from prefect import runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.states import Running

from infra.intents import Intents
from infra.linode.api import is_here
from infra.provider import Kind
from pipeline.run import Run
from pipeline.run_record import is_trained
from pipeline.temporary_server import is_temporary

PLACES = "voc-train-rental"  # the limit's name at the server
_RENTING, _WAITING = "Renting", "AwaitingRental"  # names of a flow run's state
_EVERY = 5.0  # seconds between two looks for a place
_BELIEVED = 3  # looks in a row that find a place nobody has, before it is given free
# What Prefect may call a run whose machine can be there still.
_ALIVE = FlowRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING", "CANCELLING"]}}})
_OURS = FlowFilter.model_validate({"name": {"any_": ["voc-train", "sweep"]}})


@contextmanager
def place_to_rent(run: Run) -> Iterator[bool]:
    """Wait until this run may rent a GPU, and let the next one do so afterwards.

    Gives whether it had to wait: much may have happened since.

    Nobody waits who rents nothing, or from a simulator on this computer; nor whose server has no
    such limit, or ends with the run. A run that goes on with a machine of its own, or is trained
    already, is not kept from that either.

    Raises:
        Failure: CLAIMED, where another controller drives the run meanwhile.
    """
    rents = run.parameters.machine == "linode" and not _is_rehearsal()
    if not rents or is_temporary() or _has_all_it_rents_for(run):
        yield False
        return
    with get_client(sync_client=True) as client:
        queue = _Queue(client, run)
        taken = queue.wait()
        try:
            yield queue.waited
        finally:
            if taken:
                queue.leave()


def _is_rehearsal() -> bool:
    """Whether the provider is a simulator: what costs nothing keeps nobody from renting."""
    return is_here(os.environ.get("LINODE_URL", ""))


def _has_all_it_rents_for(run: Run) -> bool:
    """Whether an earlier controller's training has ended well, and left what it made in reach."""
    reachable = run.earlier and not run.parameters.by_volume
    return bool(reachable) and is_trained(run.store, run.run_id)


class _Queue:
    """Those who rent and those who wait for it, as the server knows them."""

    def __init__(self, client: SyncPrefectClient, run: Run) -> None:
        self._client = client
        self._run = run
        self._me = UUID(runtime.flow_run.id)
        self.waited = False
        self._seen_empty = 0  # looks in a row at which a taken place had no holder

    def wait(self) -> bool:
        """Whether this run has a place now; False where it may do without."""
        said = ""
        while (taken := self._take()) is False:
            if has_a_machine(self._run):
                return False
            self.waited = True
            why = self._why()
            if why and why != said:
                said = why
                self._run.say(f"{why}; waiting for its end")
                with suppress(httpx.HTTPError):
                    self._show(_WAITING, f"{why}.")
            time.sleep(_EVERY)
            self._run.must_hold()
        if said:
            self._run.say("it is this run's turn to rent")
        return bool(taken)

    def leave(self) -> None:
        """Give the place to the next; where the server is away, that one will see that it is."""
        with suppress(Exception):
            self._show("Running")
            self._client.release_concurrency_slots([PLACES], 1, occupancy_seconds=1)

    def _take(self) -> bool | None:
        """Whether a place could be had; None where the server keeps none."""
        try:
            answer = self._client.increment_concurrency_slots([PLACES], 1, mode="concurrency")
            if not answer.json():
                return None
            self._show(_RENTING, "It rents a GPU; others wait.")
        except httpx.HTTPError:  # 423: taken; or the server is away, and comes back
            return False
        return True

    def _why(self) -> str:
        """Who has the place, in words; gives it free when that is nobody."""
        try:
            places = self._client.read_global_concurrency_limit_by_name(PLACES)
            runs = self._client.read_flow_runs(flow_filter=_OURS, flow_run_filter=_ALIVE)
            renting = [run for run in runs if _rents(run) and run.id != self._me]
            empty = places.active_slots > len(renting) and self._is_first(runs)
            self._seen_empty = self._seen_empty + 1 if empty else 0
            if self._seen_empty >= _BELIEVED:
                self._seen_empty = 0
                update = GlobalConcurrencyLimitUpdate(active_slots=len(renting))
                self._client.update_global_concurrency_limit(PLACES, update)
        except (httpx.HTTPError, ObjectNotFound):  # it was deleted: the next look sees that
            return "the Prefect server does not answer"
        if not renting:
            return f"the concurrency limit {PLACES} has no place free"
        names = ", ".join(f"{run.name} ({run.id})" for run in renting)
        return f"one GPU is rented at a time, now by flow run {names}"

    def _is_first(self, runs: list[FlowRun]) -> bool:
        """Whether nobody has been waiting for longer: two that give a place free would both go."""
        waiting = [run for run in runs if run.state_name == _WAITING]
        first = min(waiting, key=lambda run: (str(run.start_time), run.id), default=None)
        return first is None or first.id == self._me

    def _show(self, name: str, message: str = "") -> None:
        """Name the flow run's state; the server refuses it where the run is being cancelled."""
        self._client.set_flow_run_state(self._me, Running(name=name, message=message))


def _rents(run: FlowRun) -> bool:
    """Whether it may have a machine; one that is being cancelled deletes it."""
    return run.state_name == _RENTING or (run.state is not None and run.state.is_cancelling())


def has_a_machine(run: Run) -> bool:
    """Whether something of an earlier controller's may be there, and costs."""
    if not run.earlier:
        return False
    entries = Intents.load(run.store, run.run_id).entries()
    return any(entry.open and entry.intent.kind is Kind.INSTANCE for entry in entries)
