"""Commands about what there is already: recipes, runs in a store, checkpoints."""

from pathlib import Path
from typing import Annotated

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
    from infra.clock import Clock
    from infra.visit import access_to
    from pipeline.run import new_run_id
    from pipeline.status import one_run, print_all, print_one

    url = store or default_store()
    with access_to(url, new_run_id(), Clock.from_environment()):
        where = Store.open(url)
        if run is None:
            print_all(where, as_json=json)
        else:
            print_one(one_run(where, run_id(run)), as_json=json)


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
