"""A deployment at a Prefect server: as it is there, as it shall be, and what differs, in words."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import ConcurrencyOptions, DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from prefect.utilities.callables import parameter_schema

from model.errors import InputError
from pipeline.deployments import Deployment, Schedule

_NONE = "–"
_Time = tuple[str | None, dict[str, Any], bool]  # slug, schedule, whether it is on


def registered(client: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    """The deployment FLOW/DEPLOYMENT as the server has it."""
    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None


def with_what_is_there(
    wanted: Deployment, found: DeploymentResponse, *, anew: bool = False
) -> Deployment:
    """The deployment with what a person may have changed at the server, by `setup` or in the UI.

    `anew` keeps of that only whether it is on. Raises InputError where the rest cannot be kept, as
    where a parameter is no longer known.
    """
    left = [_schedule(one) for one in found.schedules]
    schedules = []
    for one in wanted.schedules:
        known = next((there for there in left if there.slug == one.slug), one)
        if known is not one:
            left.remove(known)
        schedules.append(one.model_copy(update={"active": known.active}) if anew else known)
    parameters = wanted.parameters if anew else found.parameters
    try:
        return wanted.with_known(parameters, schedules, [] if anew else left, paused=found.paused)
    except InputError as error:
        raise InputError(
            f"{error} `prefect deployment delete {wanted.full_name}`, and this makes it anew."
        ) from None


def _schedule(found: DeploymentSchedule) -> Schedule:
    said = found.model_dump(include={"slug", "active", "parameters", "max_scheduled_runs"})
    return Schedule.model_validate(said | {"found": found.schedule.model_dump()})


def register(client: SyncPrefectClient, wanted: Deployment) -> None:
    """Make the server have it, whatever it had."""
    limit = wanted.concurrency_limit
    schedules = [
        DeploymentScheduleCreate(
            schedule=one.prefect.model_dump(),
            **one.model_dump(include={"slug", "active", "parameters", "max_scheduled_runs"}),
        )
        for one in wanted.all_schedules
    ]
    options = limit and ConcurrencyOptions(collision_strategy=limit.collision_strategy)
    client.create_deployment(
        client.create_flow_from_name(wanted.flow.name),
        wanted.name,
        **as_wanted(wanted) | {"schedules": schedules, "concurrency_options": options},
        enforce_parameter_schema=True,
    )


def as_wanted(wanted: Deployment) -> dict[str, Any]:
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
        "schedules": _sorted(
            (one.slug, one.prefect.model_dump(mode="json"), one.active)
            for one in wanted.all_schedules
        ),
        "paused": wanted.paused,
        "concurrency_limit": limit and limit.limit,
        "concurrency_options": limit and limit.collision_strategy,
    }


def as_found(found: DeploymentResponse) -> dict[str, Any]:
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
        "schedules": _sorted(
            (one.slug, one.schedule.model_dump(mode="json"), one.active) for one in found.schedules
        ),
        "paused": found.paused,
        "concurrency_limit": limit and limit.limit,
        "concurrency_options": options and options.collision_strategy,
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What is another now, of `as_found` and `as_wanted`; of parameters and times also how."""
    for name, value in now.items():
        if before[name] == value:
            continue
        if name not in ("parameters", "schedules"):
            yield name.replace("_", " ")
            continue
        in_words = _parameters if name == "parameters" else _times
        was, new = dict(in_words(before[name])), dict(in_words(value))
        for key in was | new:
            if was.get(key) != new.get(key):
                yield f"{key}: {was.get(key, _NONE)} → {new.get(key, _NONE)}"


def _parameters(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Those of a run by names such as rental.budget."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _parameters(inner, f"{name}.{key}" if name else key)
    else:
        said = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        yield name.removeprefix("parameters."), said or _NONE


def _sorted(times: Iterable[_Time]) -> list[_Time]:
    """One order for what the server keeps in any."""
    return sorted(times, key=str)


def _times(schedules: list[_Time]) -> Iterator[tuple[str, str]]:
    for slug, when, active in schedules:
        often = when.get("cron") or when.get("rrule") or f"every {when.get('interval')} s"
        often = " ".join(often.split())  # a rule of calendars has lines
        zone = f" {when['timezone']}" if when.get("timezone") else ""
        yield f"schedule {slug or often}", f"{often}{zone}, {'on' if active else 'off'}"
