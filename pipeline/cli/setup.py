"""The command that prepares a Prefect server for the deployments."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic_core import to_json

from pipeline.cli.groups import grouped
from pipeline.cli.options import Json, Learning, absolute, checked, given
from pipeline.parameters import Parameters

if TYPE_CHECKING:
    from pipeline.deployments import Deployment
    from pipeline.server_setup import Part

_SCHEDULED = "nightly"  # whose time the options say
_ANY = "0 0 * * *"  # which lets a timezone be checked alone
_REHEARSAL = "rehearsal"  # which has its own archive, recipe and store, those of `rehearse`


@grouped
def setup(
    *,
    archives: Annotated[
        list[str],
        typer.Option("--archive", metavar="URL", help="What to train on. Repeatable."),
    ] = [],  # noqa: B006  # typer's way
    recipe: Annotated[str | None, typer.Option(help="See `voc-train recipes`.")] = None,
    learning: Learning,
    budget: Annotated[
        float | None, typer.Option(help="Dollars at most for each run that rents.")
    ] = None,
    cron: Annotated[
        str | None, typer.Option(help="When voc-train/nightly runs, like '0 2 * * *'.")
    ] = None,
    timezone: Annotated[
        str | None, typer.Option(help="Whose clock that is, like Europe/Berlin.")
    ] = None,
    nightly: Annotated[
        bool | None,
        typer.Option(
            "--nightly/--no-nightly",
            help="Switch voc-train/nightly on, which rents a GPU each night, or off.",
            show_default=False,
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="All anew, as this file says instead of the one that comes along."),
    ] = None,
    json: Json = False,
) -> None:
    """Make what a Prefect server needs: work pools, deployments, one rental at a time, a watch.

    The first time all is as in prefect.yaml but for the options, which are for local, linode and
    nightly. Run again it keeps the parameters and schedules that the server has, also what you have
    changed, added or paused in its UI, and changes only what the options name: --set adds to the
    settings there are, --recipe begins with none, and classes stay. What was changed is shown. The
    server is the one of PREFECT_API_URL; keys belong into the worker's environment alone.

    Example: voc-train setup --archive https://example.org/photos.tar --recipe simple-fcn
    --classes background,cell --cron '30 3 * * 1-5' --timezone Europe/Berlin --nightly
    """
    from pipeline.cli.runs import prepare_prefect

    prepare_prefect()
    from pipeline.deployments import DEPLOYMENTS, Schedule, read_deployments
    from pipeline.server_setup import set_up

    checked(Schedule, cron=cron or _ANY, timezone=timezone)
    changes = given(
        archives=[absolute(url) for url in archives],
        recipe=recipe,
        **learning.as_parameters(),
        rental=given(budget=budget),
    )
    deployments = read_deployments(file or DEPLOYMENTS)
    parts = set_up(
        deployments,
        lambda one: _changed(one, changes, given(cron=cron, timezone=timezone, active=nightly)),
        anew=file is not None,
    )
    if json:
        print(to_json(_as_dict(deployments, parts)).decode())
    else:
        _print(deployments, parts)


def _changed(one: "Deployment", changes: dict[str, Any], schedule: dict[str, Any]) -> "Deployment":
    if one.name == _REHEARSAL:
        from pipeline.rehearsal import rehearsal_store, sample

        return one.with_run({"archives": [sample()], "store": rehearsal_store()})
    if one.name == _SCHEDULED:
        one = one.with_schedule(**schedule)
    if one.run:
        checked(Parameters, **one.run_with(changes))  # which names the option that is wrong
    return one.with_run(changes)


def _as_dict(deployments: "list[Deployment]", parts: "list[Part]") -> dict[str, Any]:
    return {
        "parts": [part._asdict() for part in parts],
        "next": [_worker(pool) for pool in _pools(deployments)],
    }


def _print(deployments: "list[Deployment]", parts: "list[Part]") -> None:
    for part in parts:
        comes = f", next at {part.next:%a %d %b %H:%M %Z}" if part.next else ""
        paused = ", paused" if part.paused else ""
        print(f"{part.did:<9}  {part.kind} {part.name}{comes}{paused}")
        for change in part.changes:
            print(f"{'':<11}{change}")
    if any(part.paused and part.name.endswith(f"/{_SCHEDULED}") for part in parts):
        print(
            "\n`voc-train setup --nightly` lets it run each night; it rents a GPU, and asks nobody."
        )
    print("\nWhat remains is a worker, in a terminal whose environment has the keys:\n")
    for pool in _pools(deployments):
        print(f"    {_worker(pool)}")


def _pools(deployments: "list[Deployment]") -> list[str]:
    return sorted({one.work_pool.name for one in deployments})


def _worker(pool: str) -> str:
    return f"prefect worker start --pool {pool}"
