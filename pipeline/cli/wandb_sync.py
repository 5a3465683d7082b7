"""The command that fills a Weights & Biases run from the store."""

from typing import Annotated

import typer

from infra.failure import Cause, Failure
from infra.stores import Store
from pipeline.cli.options import Json, StoreUrl, run_id
from pipeline.parameters import default_store

app = typer.Typer()

_DID = {
    "nothing": "it has all {records} records already",
    "added": "{sent} of {records} records were new to it",
    "replaced": "all {records} records, in place of whatever it had",
}


@app.command("wandb-sync", short_help="Fill one W&B run with all that a run has logged.")
def wandb_sync(
    run: Annotated[str, typer.Argument(help="A run's id; see `voc-train status`.")],
    store: StoreUrl = "",
    offline: Annotated[
        bool, typer.Option("--offline", help="Write a folder that `wandb sync` takes.")
    ] = False,
    json: Json = False,
) -> None:
    """Fill one W&B run with all that a run has logged, however often it was resumed.

    It may be repeated: what W&B has already is not doubled. Needs WANDB_API_KEY, and honours
    WANDB_PROJECT, WANDB_ENTITY and WANDB_BASE_URL.
    """
    from pipeline.status import one_run
    from pipeline.wandb_sync import sync_to_wandb

    where = Store.open(store or default_store())
    known = one_run(where, run_id(run))
    # Of two that feed one W&B run at a time, neither knows what it has.
    fed = known["parameters"].get("wandb") not in ("offline", "disabled")
    if known["state"] == "running" and fed and not offline:
        raise Failure(
            Cause.BAD_INPUT, f"Run {run} is at work and feeds W&B itself; wait for its end."
        )
    synced = sync_to_wandb(where, run, online=not offline)
    if json:
        print(synced.model_dump_json())
        return
    print(f"{synced.place}\n{_DID[synced.did].format(**dict(synced))}")
    if not synced.checkpoint:
        print("it has no checkpoint that verifies")
    elif synced.champion:
        print("its checkpoint is the champion")
    if synced.command:
        print(f"deliver it with: {synced.command}")
