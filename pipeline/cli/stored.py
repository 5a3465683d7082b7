"""Commands about what there is already: recipes, runs in a store, checkpoints."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, get_args

import typer
from pydantic_core import to_json

from infra.stores import Store
from model.recipes import RECIPES, named
from pipeline.cli.groups import grouped
from pipeline.cli.options import (
    Device,
    Flip,
    Json,
    Photos,
    StoreUrl,
    Window,
    date_in,
    one_of,
    parameters_of,
    run_id,
)
from pipeline.parameters import default_store, home

app = typer.Typer()


@app.command()
def recipes(
    name: Annotated[
        str | None, typer.Argument(help="A recipe; without one, all in a table.")
    ] = None,
    json: Json = False,
) -> None:
    """List the recipes, or one with all its settings."""
    recipe = None if name is None else named(name)
    if json:
        print(to_json(recipe or RECIPES).decode())
        return
    from pipeline.tables import print_recipe, print_recipes

    if recipe:
        print_recipe(recipe)
    else:
        print_recipes(RECIPES.values())


@app.command()
def status(
    run: Annotated[str | None, typer.Argument(help="A run's id; without one, all runs.")] = None,
    store: StoreUrl = "",
    json: Json = False,
) -> None:
    """Show how runs stand: all of a store, or one in detail.

    As with `resume`, the token alone will do for a bucket at Linode.
    """
    from pipeline.runs import Wanted, print_runs
    from pipeline.status import one_run, print_one

    with _visited(store) as where:
        if run is None:
            print_runs(where, Wanted(), as_json=json)
        else:
            print_one(one_run(where, run_id(run)), as_json=json)


@app.command(short_help="List runs: when, what, score, dollars, state, cause.")
def runs(
    recipe: Annotated[str | None, typer.Option(help="Only those with this recipe.")] = None,
    state: Annotated[
        str | None, typer.Option(help="Only those that stand so, like done or failed.")
    ] = None,
    cause: Annotated[
        str | None, typer.Option(help="Only those that failed of this, like BUDGET.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="DAY", help="Only those that began on this day or later, like 2026-11-22."
        ),
    ] = None,
    last: Annotated[int | None, typer.Option(min=1, help="Only so many, the newest.")] = None,
    store: StoreUrl = "",
    json: Json = False,
) -> None:
    """List runs: when, what, score, dollars, state and cause; marked where one costs still."""
    from infra.failure import Cause
    from pipeline.runs import Wanted, print_runs
    from pipeline.status import State

    wanted = Wanted(
        recipe=recipe,
        state=one_of(get_args(State), state, "--state"),
        cause=one_of(tuple(Cause), cause and cause.upper(), "--cause"),
        since=date_in(since, "--since", "%Y-%m-%d", "2026-11-22").astimezone() if since else None,
        last=last,
    )
    with _visited(store) as where:
        print_runs(where, wanted, as_json=json)


@app.command(short_help="Show what runs cost: estimated, and billed.")
def bills(
    by: Annotated[str, typer.Option(help="run or month")] = "month",
    month: Annotated[
        str | None, typer.Option(metavar="MONTH", help="Only this one, by UTC, like 2026-11.")
    ] = None,
    store: StoreUrl = "",
    json: Json = False,
) -> None:
    """Show what runs cost: estimated by what they noted, against what the provider billed.

    Without a token there are the estimates alone. A bill is the whole account's, so of its lines
    those are counted that name one of our machines or Volumes.
    """
    from infra.clock import Clock
    from pipeline.bills import By, print_bills, read_bills

    grouping = one_of(get_args(By), by, "--by")
    assert grouping
    only = month and f"{date_in(month, '--month', '%Y-%m', '2026-11'):%Y-%m}"
    with _visited(store) as where:
        read = read_bills(where, Clock.from_environment(), grouping, only)
    if json:
        print(to_json(read.as_dict()).decode())
    else:
        print_bills(read)


@contextmanager
def _visited(url: str) -> Iterator[Store]:
    """The store, also for who has only a token."""
    from infra.clock import Clock
    from infra.visit import access_to
    from pipeline.run import new_run_id

    url = url or default_store()
    with access_to(url, new_run_id(), Clock.from_environment()):
        yield Store.open(url)


@app.command()
def fetch(
    run: Annotated[str, typer.Argument(help="A run's id; see `voc-train status`.")],
    store: StoreUrl = "",
    out: Annotated[Path | None, typer.Option(help="Folder for the checkpoint.")] = None,
    json: Json = False,
) -> None:
    """Copy the best verified checkpoint of a run to this computer."""
    from pipeline.stages.fetch_checkpoint import fetch_checkpoint

    folder = out or home() / "checkpoints" / run_id(run)
    manifest = fetch_checkpoint(run_id(run), Store.open(store or default_store()), folder)
    path = folder / "checkpoint.pt"
    if json:
        print(to_json({"checkpoint": path, **dict(manifest)}).decode())
        return
    score = "not scored yet" if manifest.miou is None else f"mIoU {manifest.miou:.4f}"
    print(f"{path}\n{score}, step {manifest.step}, sha256 {manifest.sha256}")


@app.command(short_help="Score a checkpoint on the photos of an archive.")
@grouped
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint.pt")],
    photos: Photos,
    split: Annotated[str, typer.Option(help="train, val or test")] = "val",
    store: StoreUrl = "",
    device: Device = "auto",
    window: Window = None,
    flip: Flip = False,
    json: Json = False,
) -> None:
    """Score a checkpoint on the photos of an archive, at their own resolution."""
    from pipeline.console import Terminal
    from pipeline.evaluation import evaluate_on_archives
    from pipeline.tables import print_score

    parameters = parameters_of(photos, store=store, device=device)
    with Terminal() as terminal:
        score = evaluate_on_archives(
            checkpoint, parameters, split, [terminal], window=window, flip=flip
        )
    if json:
        print(score.model_dump_json())
    else:
        print_score(score)
