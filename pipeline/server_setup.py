"""What a Prefect server needs to run the deployments: made where it is missing, else left alone.

Work pools, the places for rentals, deployments, and the automation that finds silent runs. What the
server has of a deployment's parameters and times stays, unless somebody asks for another; what a
user has paused stays paused, and a limit that was raised stays so.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Literal, NamedTuple

import httpx
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.workers.process import ProcessWorker

from infra.failure import Cause, Failure
from infra.urls import without_secrets
from pipeline.deployments import AUTOMATIONS, Deployment
from pipeline.registration import (
    as_found,
    as_wanted,
    differences,
    register,
    registered,
    with_what_is_there,
)
from pipeline.rental_queue import PLACES

_AT_ONCE = 1  # rentals of a GPU


class Part(NamedTuple):
    """Something at the server, and what was done about it."""

    kind: Literal["work pool", "concurrency limit", "deployment", "automation"]
    name: str
    did: Literal["made", "changed", "was there"]
    next: datetime | None = None  # when a deployment runs by itself; None also where it is paused
    paused: bool = False  # a deployment that has schedules, and all of them are off
    changes: tuple[str, ...] = ()  # of a deployment that was changed, in words


def set_up(
    deployments: Sequence[Deployment],
    change: Callable[[Deployment], Deployment] = lambda deployment: deployment,
    *,
    anew: bool = False,
) -> list[Part]:
    """Make what is missing at the configured server; returns all of it.

    What the server has of a deployment's parameters and times stays, but for what `change` makes of
    it; `anew` keeps of that only whether a schedule is on.

    Raises:
        InputError: what the server has, or what `change` makes of it, cannot be.
        Failure: BAD_INPUT where no server is configured or it does not answer, or where a work pool
            of that name is for something else.
    """
    for deployment in deployments:
        deployment.full_name  # noqa: B018  # what cannot be imported is refused before anything
    with _server() as client:
        found = [registered(client, deployment.full_name) for deployment in deployments]
        # All of them before anything is made: what is refused leaves nothing behind.
        wanted = [
            change(with_what_is_there(one, there, anew=anew) if there else one)
            for one, there in zip(deployments, found, strict=True)
        ]
        pools = sorted({deployment.work_pool.name for deployment in wanted})
        return [
            *(_work_pool(client, name) for name in pools),
            _places(client),
            *(_deployment(client, *both) for both in zip(wanted, found, strict=True)),
            *_automations(client),
        ]


@contextmanager
def _server() -> Iterator[SyncPrefectClient]:
    url = PREFECT_API_URL.value()
    start = "`prefect server start`"
    if not url:
        raise Failure(
            Cause.BAD_INPUT,
            f"No Prefect server is named: {start} in another terminal, and here "
            "`export PREFECT_API_URL=http://127.0.0.1:4200/api`.",
        )
    with get_client(sync_client=True) as client:
        if problem := client.api_healthcheck():
            raise Failure(
                Cause.BAD_INPUT,
                f"No Prefect server answers at {without_secrets(url)}: start it with {start}, or "
                "set PREFECT_API_URL to the one that runs, with /api at its end.",
            ) from problem
        try:
            yield client
        except httpx.HTTPError as error:
            raise Failure(
                Cause.BAD_INPUT,
                f"The Prefect server at {without_secrets(url)} did not do it ({_in_words(error)}); "
                "look into its terminal, then run this again: it goes on where it was.",
            ) from error


def _in_words(error: httpx.HTTPError) -> str:
    """Without the URL that its own text quotes, which may hold a password."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"HTTP {error.response.status_code}"
    return type(error).__name__


def _work_pool(client: SyncPrefectClient, name: str) -> Part:
    try:
        found = client.read_work_pool(name)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(
            WorkPoolCreate(name=name, type=ProcessWorker.type, base_job_template=template)
        )
        return Part("work pool", name, "made")
    if found.type != ProcessWorker.type:
        raise Failure(
            Cause.BAD_INPUT,
            f"The work pool {name} is of type {found.type}, and the deployments need one for "
            f"processes; `prefect work-pool delete {name}`, or name another in prefect.yaml.",
        )
    return Part("work pool", name, "was there")


def _places(client: SyncPrefectClient) -> Part:
    try:
        client.read_global_concurrency_limit_by_name(PLACES)
    except ObjectNotFound:
        limit = GlobalConcurrencyLimitCreate(name=PLACES, limit=_AT_ONCE)
        client.create_global_concurrency_limit(limit)
        return Part("concurrency limit", PLACES, "made")
    return Part("concurrency limit", PLACES, "was there")


def _deployment(
    client: SyncPrefectClient, wanted: Deployment, found: DeploymentResponse | None
) -> Part:
    part = Part(
        "deployment",
        wanted.full_name,
        "was there",
        next=wanted.next(),
        paused=bool(wanted.all_schedules) and not wanted.active,
    )
    if found is None:
        register(client, wanted)
        return part._replace(did="made")
    if changes := tuple(differences(as_found(found), as_wanted(wanted))):
        register(client, wanted)
        return part._replace(did="changed", changes=changes)
    return part


def _automations(client: SyncPrefectClient) -> Iterator[Part]:
    for described in yaml.safe_load(AUTOMATIONS.read_text())["automations"]:
        automation = AutomationCore.model_validate(described)
        known = client.read_automations_by_name(automation.name)
        if not known:
            client.create_automation(automation)
            yield Part("automation", automation.name, "made")
            continue
        # Whoever switched it off wants it off.
        wanted = automation.model_copy(update={"enabled": known[0].enabled})
        if AutomationCore.model_validate(known[0].model_dump(exclude={"id"})) == wanted:
            yield Part("automation", automation.name, "was there")
        else:
            client.update_automation(known[0].id, wanted)
            yield Part("automation", automation.name, "changed")
