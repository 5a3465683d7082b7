"""The command that compares settings."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from infra.failure import Failure
from infra.stores import Store
from model.errors import InputError
from pipeline.cli.groups import grouped
from pipeline.cli.options import (
    Device,
    Json,
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
from pipeline.grid import combinations, split
from pipeline.parameters import Parameters
from pipeline.run import recorded_run
from pipeline.sweep import Comparison, compare

if TYPE_CHECKING:
    from pipeline.console import Terminal

Grid = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE[,VALUE…]",
        help="A recipe's setting, with commas between the values to compare. Semicolons where "
        "values have commas themselves (scale, multi_scale, image_size): "
        "--set 'scale=0.5,2;0.8,1.25'. Repeatable.",
    ),
]


@grouped
def sweep(
    *,
    photos: Photos,
    recipe: Recipe = "voc-segmentnet",
    grid: Grid = [],  # noqa: B006  # typer's way
    classes: Annotated[
        str | None,
        typer.Option(help="Class names by index, with commas. Default: the recipe's."),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Loader processes.")] = None,
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

    The dataset is prepared once, and where a machine is rented, one boot is paid for. --budget and
    --limit train_hours hold for all settings together: what no longer fits is not begun. A setting
    that fails is a row of the table with its cause. Nothing is promoted. What was interrupted goes
    on with `voc-train resume SWEEP`.

    Example: voc-train sweep --recipe people-resnet34-unet --archive people.tar --set lr=1e-3,3e-4
    --set batch_size=4,8 --budget 5
    """
    fixed, varied = split(pairs(grid, "--set"))
    combinations(recipe, fixed, varied)  # refused now rather than after Prefect's start
    terms = given(budget=budget, plan=plan, region=region, ssh_from=ssh_from)
    place = on or ("linode" if budget else "local")
    if place == "local" and (terms or no_reaper):
        raise InputError("Nothing is rented on this computer; add --on linode, or name no terms.")
    parameters = parameters_of(
        photos,
        machine=_place(place),
        recipe=recipe,
        overrides=fixed,
        classes=[name.strip() for name in classes.split(",")] if classes else [],
        workers=workers,
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
        run_sweep(parameters, terminal, grid=varied, json=json)


def run_sweep(
    parameters: Parameters,
    terminal: "Terminal",
    *,
    json: bool,
    grid: dict[str, list[str]] | None = None,
    resume: str | None = None,
) -> None:
    """Run the flow, and show the table, of a sweep that ended early as well."""
    from pipeline.tables import print_comparison

    def flow() -> Comparison:
        from pipeline.sweeping import sweep as flow

        return flow(parameters, grid, resume)

    try:
        comparison = driven(parameters, terminal, flow)
    except Failure:
        if terminal.run_id and not json:
            where = Store.open(parameters.store)
            print_comparison(compare(where, recorded_run(where, terminal.run_id)))
        raise
    if json:
        print(comparison.model_dump_json())
    else:
        print_comparison(comparison)


def _place(on: str) -> Literal["local", "linode"]:
    if on not in ("local", "linode"):
        raise InputError(f"--on {on} is no place for a sweep; it is local or linode.")
    return "local" if on == "local" else "linode"
