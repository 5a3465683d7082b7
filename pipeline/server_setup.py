"""What a Prefect server needs to run the deployments: made where it is missing, else left alone.

Work pools, the places for rentals, deployments, and the automation that finds silent runs. What a
user has paused stays paused, and a limit that was raised stays so.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Literal, NamedTuple

import httpx
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    GlobalConcurrencyLimitCreate,
    WorkPoolCreate,
)
from prefect.client.schemas.objects import ConcurrencyOptions
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker

from infra.failure import Cause, Failure
from infra.urls import without_secrets
from pipeline.deployments import AUTOMATIONS, Deployment
from pipeline.rental_queue import PLACES

_AT_ONCE = 1  # rentals of a GPU


class Part(NamedTuple):
    """Something at the server, and what was done about it."""

    kind: Literal["work pool", "concurrency limit", "deployment", "automation"]
    name: str
    did: Literal["made", "changed", "was there"]
    next: datetime | None = None  # when a deployment runs by itself; None also where it is paused


def set_up(deployments: Sequence[Deployment]) -> list[Part]:
    """Make what is missing at the configured server; returns all of it.

    Raises:
        Failure: BAD_INPUT where no server is configured or it does not answer, or where a work pool
            of that name is for something else.
    """
    for deployment in deployments:
        deployment.full_name  # noqa: B018  # what cannot be imported is refused before anything
    with _server() as client:
        pools = sorted({deployment.work_pool.name for deployment in deployments})
        return [
            *(_work_pool(client, name) for name in pools),
            _places(client),
            *(_deployment(client, deployment) for deployment in deployments),
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


def _deployment(client: SyncPrefectClient, wanted: Deployment) -> Part:
    name = wanted.full_name
    try:
        found = client.read_deployment_by_name(name)
    except ObjectNotFound:
        found = None
    active = [one for one in wanted.schedules if one.active and not _is_paused(found, one.slug)]
    next_at = min((one.next() for one in active), default=None)
    registered = _as_registered(wanted)
    if found and _as_found(found) == registered:
        return Part("deployment", name, "was there", None if found.paused else next_at)
    limit = wanted.concurrency_limit
    client.create_deployment(
        client.create_flow_from_name(wanted.flow.name),
        wanted.name,
        **registered
        | {
            "schedules": [
                DeploymentScheduleCreate(
                    schedule=one.prefect.model_dump(),
                    slug=one.slug,
                    active=one in active,
                )
                for one in wanted.schedules
            ],
            "concurrency_options": limit
            and ConcurrencyOptions(collision_strategy=limit.collision_strategy),
        },
        enforce_parameter_schema=True,
    )
    if found is None:
        return Part("deployment", name, "made", next_at)
    return Part("deployment", name, "changed", None if found.paused else next_at)


def _as_registered(wanted: Deployment) -> dict[str, Any]:
    """What it shall be at the server, in the words of `create_deployment`."""
    limit = wanted.concurrency_limit
    return {
        "entrypoint": wanted.entrypoint,
        "description": wanted.description or wanted.flow.description,
        "tags": list(wanted.tags),
        "parameters": wanted.parameters,
        "parameter_openapi_schema": parameter_schema(wanted.flow).model_dump_for_openapi(),
        "pull_steps": [],
        "path": None,
        "work_pool_name": wanted.work_pool.name,
        "work_queue_name": wanted.work_pool.work_queue_name or "default",
        "job_variables": wanted.work_pool.job_variables,
        "schedules": [(one.slug, one.prefect.model_dump(mode="json")) for one in wanted.schedules],
        "concurrency_limit": limit and limit.limit,
        "concurrency_options": limit and limit.collision_strategy,
    }


def _as_found(found: DeploymentResponse) -> dict[str, Any]:
    """What it is at the server, in the same words."""
    limit, options = found.global_concurrency_limit, found.concurrency_options
    return {
        "entrypoint": found.entrypoint,
        "description": found.description,
        "tags": found.tags,
        "parameters": found.parameters,
        "parameter_openapi_schema": found.parameter_openapi_schema,
        "pull_steps": found.pull_steps or [],
        "path": found.path,
        "work_pool_name": found.work_pool_name,
        "work_queue_name": found.work_queue_name,
        "job_variables": found.job_variables,
        "schedules": [(one.slug, one.schedule.model_dump(mode="json")) for one in found.schedules],
        "concurrency_limit": limit and limit.limit,
        "concurrency_options": options and options.collision_strategy,
    }


def _is_paused(found: DeploymentResponse | None, slug: str | None) -> bool:
    """Whether somebody has paused the schedule of that name."""
    return found is not None and any(one.slug == slug and not one.active for one in found.schedules)


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
