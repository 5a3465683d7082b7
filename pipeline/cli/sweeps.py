"""The command that compares settings."""

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from infra.failure import Failure
from infra.stores import Store
from model.errors import InputError
from pipeline.cli.groups import grouped
from pipeline.cli.options import (
    Device,
    Json,
    Learning,
    NoReaper,
    Photos,
    Plan,
    Recipe,
    Region,
    SshFrom,
    StoreUrl,
    Wandb,
    Yes,
    given,
    must_agree,
    pairs,
    parameters_of,
)
from pipeline.cli.runs import driven, show_plan, shown
from pipeline.parameters import Parameters
from pipeline.run_record import recorded_run

if TYPE_CHECKING:
    from pipeline.console import Terminal
    from pipeline.sweep import Comparison


@grouped
def sweep(
    *,
    photos: Photos,
    recipe: Recipe = "voc-segmentnet",
    learning: Learning,
    on: Annotated[
        str | None,
        typer.Option(help="local or linode. Default: local; linode where a --budget is given."),
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="Dollars at most, for all settings together.")
    ] = None,
    plan: Plan = None,
    region: Region = None,
    ssh_from: SshFrom = [],  # noqa: B006
    no_reaper: NoReaper = False,
    store: StoreUrl = "",
    device: Device = "auto",
    wandb: Wandb = "auto",
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Train a recipe with every combination of some settings, one after the other on one machine.

    A --set with several values, lr=1e-3,3e-4, tries each. Semicolons separate those that have
    commas themselves (scale, multi_scale, image_size): 'scale=0.5,2;0.8,1.25'.

    The dataset is prepared once, and where a machine is rented, one boot is paid for. --budget
    holds for all settings together, and --limit train_hours for all at one machine: what no longer
    fits is not begun. One that fails by its settings is a row of the table, with its cause. Nothing
    is promoted. What was interrupted, or failed of what may pass, goes on with `voc-train resume`:
    what is trained stays.

    Example: voc-train sweep --archive people.tar --recipe people-resnet34-unet
    --set lr=1e-3,3e-4 --set batch_size=4,8 --budget 5
    """
    from pipeline.grid import combinations, split

    fixed, grid = split(pairs(learning.overrides, "--set"))
    combinations(recipe, fixed, grid)  # refused now rather than after Prefect's start
    terms = given(budget=budget, plan=plan, region=region, ssh_from=ssh_from)
    place = on or ("local" if budget is None else "linode")
    if place not in ("local", "linode"):
        raise InputError(f"--on {place} is no place for a sweep; it is local or linode.")
    if place == "local" and (terms or no_reaper):
        raise InputError("Nothing is rented for --on local; add --on linode, or name no terms.")
    parameters = parameters_of(
        photos,
        replace(learning, overrides=[f"{key}={value}" for key, value in fixed.items()]),
        machine=place,
        recipe=recipe,
        store=store,
        device=device,
        rental={**terms, "reaper": not no_reaper},
        wandb=wandb,
    )
    with shown() as terminal:
        if place == "linode":
            show_plan(parameters)
            if not yes:
                must_agree()
        run_sweep(parameters, terminal, grid=grid, json=json)


def run_sweep(
    parameters: Parameters,
    terminal: "Terminal",
    *,
    json: bool,
    grid: dict[str, list[str]] | None = None,
    resume: str | None = None,
) -> None:
    """Run the flow, and show the table, of a sweep that ended early as well."""
    from pipeline.tables import print_sweep

    def flow() -> "Comparison":
        from pipeline.sweeping import sweep as flow

        return flow(parameters, grid, resume)

    try:
        comparison = driven(parameters, terminal, flow)
    except Failure:
        if terminal.run_id and not json:
            _print_what_is_known(Store.open(parameters.store), terminal.run_id)
        raise
    if json:
        print(comparison.model_dump_json())
    else:
        print_sweep(comparison)


def _print_what_is_known(store: Store, run_id: str) -> None:
    from pipeline.sweep import compare
    from pipeline.tables import print_sweep

    with suppress(Failure):  # what ended the sweep is the thing to hear of
        comparison = compare(store, recorded_run(store, run_id))
        if any(row.state for row in comparison.rows):
            print_sweep(comparison)
