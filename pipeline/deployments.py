"""The deployments as `prefect.yaml` describes them, checked before a server hears of any."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.server.schemas.schedules import SCHEDULE_TYPES, CronSchedule, IntervalSchedule
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.errors import InputError, first_problem
from pipeline.parameters import Parameters

DEPLOYMENTS = Path(__file__).with_name("prefect.yaml")
AUTOMATIONS = Path(__file__).with_name("automations.yaml")
_ANCHOR = datetime(2026, 1, 1, tzinfo=UTC)  # one for all times, or each registration would differ
_TEN_YEARS = 315_360_000  # seconds

_STRICT = ConfigDict(frozen=True, extra="forbid")


class Schedule(BaseModel):
    """When a deployment runs by itself: a line for cron, every so many seconds, or as found."""

    model_config = _STRICT

    slug: str | None = None
    cron: str | None = None
    interval: float | None = Field(None, ge=1, le=_TEN_YEARS)
    timezone: str | None = Field(None, min_length=1)
    active: bool = True
    found: SCHEDULE_TYPES | None = None  # of any kind, as a server has it: nothing of it is lost
    parameters: dict[str, Any] = {}
    max_scheduled_runs: int | None = None

    @model_validator(mode="after")
    def _comes(self) -> Self:
        if self.found:
            return self  # perhaps never again, which is whose made it to decide
        if (self.cron is None) == (self.interval is None):
            raise ValueError("a schedule has either `cron` or `interval`, in seconds")
        try:
            self.next()
        except ValidationError as error:
            if error.errors()[0]["loc"] == ("cron",):
                raise ValueError(
                    f"{self.cron!r} is no schedule of cron's, which are minute, hour, day, month "
                    "and weekday, like '0 2 * * *'"
                ) from None
            raise ValueError(
                f"there is no timezone {self.timezone!r}; it is written like Europe/Berlin"
            ) from None
        return self

    @cached_property
    def prefect(self) -> SCHEDULE_TYPES:
        """The schedule in Prefect's words."""
        if self.found:
            return self.found
        if self.interval is None:
            return CronSchedule(cron=self.cron, timezone=self.timezone)
        every = timedelta(seconds=self.interval)
        return IntervalSchedule(interval=every, anchor_date=_ANCHOR, timezone=self.timezone)

    def at(self, cron: str | None, timezone: str | None) -> dict[str, Any]:
        """What it says with another time or another clock; not checked yet."""
        zone = timezone or self.prefect.timezone
        said = self.model_dump() | {"timezone": zone}
        if cron is not None:
            return said | {"cron": cron, "interval": None, "found": None}
        if self.found:
            return said | {"found": self.found.model_dump() | {"timezone": zone}}
        return said

    def next(self) -> datetime:
        """When it comes next. Raises ValueError where it never does, as on 30 February."""
        try:
            dates = asyncio.run(self.prefect.get_dates(1))
        except ValidationError:
            raise
        except ValueError:  # croniter looks into the next fifty years
            dates = []
        if not dates:
            raise ValueError(f"{self.cron!r} never comes")
        return dates[0]


class WorkPool(BaseModel):
    """Whose workers run it."""

    model_config = _STRICT

    name: str = Field(min_length=1)
    work_queue_name: str | None = None
    job_variables: dict[str, Any] = {}


class Limit(BaseModel):
    """How many runs of one deployment there may be at once, and what becomes of one more."""

    model_config = _STRICT

    limit: int = Field(ge=1)
    collision_strategy: Literal["ENQUEUE", "CANCEL_NEW"] = "ENQUEUE"


class Deployment(BaseModel):
    """A flow with parameters, a work pool and perhaps a schedule."""

    model_config = _STRICT

    name: str = Field(min_length=1)
    entrypoint: str
    description: str | None = None
    tags: tuple[str, ...] = ()
    parameters: dict[str, Any] = {}
    schedules: tuple[Schedule, ...] = ()
    added: tuple[Schedule, ...] = ()  # those that only a server has
    paused: bool = False  # all its schedules, whatever each of them says
    concurrency_limit: Limit | None = None
    work_pool: WorkPool

    @cached_property
    def flow(self) -> "Flow[Any, Any]":
        """What it runs. Raises InputError where that cannot be imported."""
        try:
            return load_flow_from_entrypoint(self.entrypoint, use_placeholder_flow=False)
        except Exception as error:
            raise InputError(
                f"The entrypoint {self.entrypoint} of deployment {self.name} cannot be imported "
                f"({error}); it is written like pipeline.flow.voc_train."
            ) from error

    @property
    def full_name(self) -> str:
        """Its name at the server, FLOW/DEPLOYMENT."""
        return f"{self.flow.name}/{self.name}"

    @property
    def run(self) -> dict[str, Any]:
        """The parameters of the flow `voc-train`, as far as they are said here; else none."""
        return dict(self.parameters.get("parameters") or {})

    def with_run(self, changes: dict[str, Any]) -> "Deployment":
        """The deployment with other parameters of a run. Raises InputError for bad ones."""
        if not self.run:
            return self
        changed = {"parameters": self.parameters | {"parameters": self.run_with(changes)}}
        return _checked(self.model_dump() | changed)

    def run_with(self, changes: dict[str, Any]) -> dict[str, Any]:
        """The parameters of a run with others; settings of another recipe do not stay.

        Terms of a rental are for those alone that rent.
        """
        kept = self.run
        if kept.get("machine") != "linode":
            changes = {name: value for name, value in changes.items() if name != "rental"}
        if "recipe" in changes:
            kept.pop("overrides", None)
        inner = {
            name: kept.get(name, {}) | changes[name]
            for name in ("rental", "overrides")
            if name in changes
        }
        return kept | changes | inner

    def with_schedule(
        self, cron: str | None = None, timezone: str | None = None, active: bool | None = None
    ) -> "Deployment":
        """The deployment with its schedules at another time, on or off; None: as it is.

        Of those that somebody has added at a server, off is all that is said. Raises InputError for
        a time that cannot be.
        """
        switched = {} if active is None else {"active": active}
        schedules = [one.at(cron, timezone) | switched for one in self.schedules]
        added = [one.model_copy(update={} if active else switched) for one in self.added]
        paused = self.paused and not active
        changed = {"schedules": schedules, "added": added, "paused": paused}
        return _checked(self.model_dump() | changed)

    def with_known(
        self,
        parameters: dict[str, Any],
        schedules: Sequence[Schedule],
        added: Sequence[Schedule],
        *,
        paused: bool,
    ) -> "Deployment":
        """The deployment with what a server has of it. Raises InputError where that cannot be."""
        known = {"parameters": parameters, "schedules": schedules, "added": added, "paused": paused}
        return _checked(self.model_dump() | known, "the Prefect server")

    @property
    def active(self) -> list[Schedule]:
        """The schedules by which it runs."""
        return [] if self.paused else [one for one in self.all_schedules if one.active]

    @property
    def all_schedules(self) -> tuple[Schedule, ...]:
        """Those of prefect.yaml and those that only a server has."""
        return self.schedules + self.added

    def next(self) -> datetime | None:
        """When it runs by itself next; None where it does not."""
        dates = []
        for one in self.active:
            with suppress(ValueError):  # one that is over
                dates.append(one.next())
        return min(dates, default=None)

    @model_validator(mode="after")
    def _can_run(self) -> Self:
        try:
            if self.run:
                Parameters.model_validate(self.run)
        except ValidationError as error:
            where, said = first_problem(error)
            raise ValueError(f"{where}: {said}" if where else said) from None
        return self


def read_deployments(path: Path = DEPLOYMENTS) -> list[Deployment]:
    """The deployments of a `prefect.yaml`.

    Raises:
        InputError: it cannot be read, or something in it is wrong, such as a schedule that never
            comes, an unknown timezone or recipe; the sentence names deployment and setting.
    """
    try:
        described = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        said = getattr(error, "strerror", None) or str(error).replace("\n", " ")
        raise InputError(f"{path} cannot be read: {said}") from error
    entries = described.get("deployments") if isinstance(described, dict) else None
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path} has no `deployments`; see {DEPLOYMENTS}.")
    deployments = [_checked(entry, str(path)) for entry in entries]
    names = [deployment.name for deployment in deployments]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"{path} has the deployment {min(twice)} twice; rename one.")
    return deployments


def _checked(entry: Any, source: str = "") -> Deployment:
    try:
        return Deployment.model_validate(entry)
    except ValidationError as error:
        where, said = first_problem(error)
        name = entry.get("name", "?") if isinstance(entry, dict) else "?"
        source = f" of {source}" if source else ""
        where = f"{where}: " if where else ""
        raise InputError(f"Deployment {name}{source}: {where}{said}.") from None
