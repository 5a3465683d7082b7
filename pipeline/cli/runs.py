"""Commands that run the whole flow: here, on a rented machine, on one's own host, for trial."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated

import typer

from infra.failure import Failure
from infra.stores import Store
from pipeline.cli.options import (
    Archives,
    Budget,
    Classes,
    Device,
    Json,
    Keep,
    Layout,
    Limits,
    MaxSide,
    NoReaper,
    Overrides,
    Plan,
    PrepareOn,
    Recipe,
    Region,
    Route,
    SkipMissing,
    SshFrom,
    StoreUrl,
    VolumeGb,
    Wandb,
    Workers,
    Yes,
    given,
    layout_of,
    must_agree,
    pairs,
    parameters_of,
    this_run,
)
from pipeline.parameters import Parameters

if TYPE_CHECKING:
    from pipeline.console import Terminal

app = typer.Typer(help="Run the whole flow.", no_args_is_help=True)


@app.command("local", short_help="Run it on this computer.")
def run_local(
    archive: Archives = [],  # noqa: B006  # typer's way
    layout: Layout = [],  # noqa: B006
    recipe: Recipe = "voc-segmentnet",
    set_: Overrides = [],  # noqa: B006
    classes: Classes = None,
    max_side: MaxSide = None,
    skip_missing: SkipMissing = False,
    store: StoreUrl = "",
    device: Device = "auto",
    workers: Workers = None,
    wandb: Wandb = "auto",
    limit: Limits = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Extract, separate, build the dataset, train and fetch the checkpoint, on this computer.

    Example: voc-train run local --archive VOCtrainval_11-May-2012.tar --set epochs=5
    """
    parameters = parameters_of(
        archives=archive,
        layout=layout_of(layout),
        recipe=recipe,
        overrides=pairs(set_, "--set"),
        classes=classes,
        max_side=max_side,
        skip_missing=skip_missing,
        store=store,
        device=device,
        workers=workers,
        wandb=wandb,
        limits=pairs(limit, "--limit"),
    )
    with _shown() as terminal:
        _run(parameters, terminal, json=json)


@app.command("linode", short_help="Rent a GPU at Linode, train there, delete it.")
def run_linode(
    archive: Archives = [],  # noqa: B006
    layout: Layout = [],  # noqa: B006
    recipe: Recipe = "voc-segmentnet",
    set_: Overrides = [],  # noqa: B006
    classes: Classes = None,
    max_side: MaxSide = None,
    skip_missing: SkipMissing = False,
    store: StoreUrl = "",
    budget: Budget = 5.0,
    plan: Plan = None,
    region: Region = None,
    ssh_from: SshFrom = [],  # noqa: B006
    route: Route = "bucket",
    volume_gb: VolumeGb = 20,
    prepare_on: PrepareOn = "local",
    keep: Keep = False,
    no_reaper: NoReaper = False,
    workers: Workers = None,
    wandb: Wandb = "auto",
    limit: Limits = [],  # noqa: B006
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Prepare here, rent a GPU, train there, bring the checkpoint home, delete the machine.

    First it shows what it would cost at the most and what would be created, and asks. The token is
    read from LINODE_TOKEN, or from linode-cli's configuration.

    Example: voc-train run linode --archive VOCtrainval_11-May-2012.tar --store s3://BUCKET
    --budget 5 --ssh-from 203.0.113.7/32
    """
    parameters = parameters_of(
        machine="linode",
        archives=archive,
        layout=layout_of(layout),
        recipe=recipe,
        overrides=pairs(set_, "--set"),
        classes=classes,
        max_side=max_side,
        skip_missing=skip_missing,
        store=store,
        rental=given(
            budget=budget,
            plan=plan,
            region=region,
            ssh_from=ssh_from,
            route=route,
            volume_gb=volume_gb,
            prepare_on=prepare_on,
            keep=keep,
            reaper=not no_reaper,
        ),
        workers=workers,
        wandb=wandb,
        limits=pairs(limit, "--limit"),
    )
    from pipeline.plan import must_be_here

    with _shown() as terminal:
        must_be_here(parameters.archives)
        _show_plan(parameters)
        if not yes:
            must_agree()
        _run(parameters, terminal, json=json)


@app.command("ssh", short_help="Train on a host of your own that you reach by SSH.")
def run_ssh(
    host: Annotated[str, typer.Argument(metavar="USER@HOST[:PORT]")],
    archive: Archives = [],  # noqa: B006
    layout: Layout = [],  # noqa: B006
    python: Annotated[
        str,
        typer.Option(
            help="A Python there that has torch, obstore and the like: the README says what."
        ),
    ] = "python3",
    recipe: Recipe = "voc-segmentnet",
    set_: Overrides = [],  # noqa: B006
    classes: Classes = None,
    max_side: MaxSide = None,
    skip_missing: SkipMissing = False,
    store: StoreUrl = "",
    device: Device = "auto",
    workers: Workers = None,
    wandb: Wandb = "auto",
    limit: Limits = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Prepare here, train on a host of your own, bring the checkpoint home.

    Its host key must be in ~/.ssh/known_hosts; your SSH agent or keys let you in. The bucket's key
    of this environment goes there for as long as the job runs.
    """
    parameters = parameters_of(
        machine="ssh",
        ssh_host=host,
        ssh_python=python,
        archives=archive,
        layout=layout_of(layout),
        recipe=recipe,
        overrides=pairs(set_, "--set"),
        classes=classes,
        max_side=max_side,
        skip_missing=skip_missing,
        store=store,
        device=device,
        workers=workers,
        wandb=wandb,
        limits=pairs(limit, "--limit"),
    )
    with _shown() as terminal:
        _run(parameters, terminal, json=json)


def rehearse(
    archive: Archives = [],  # noqa: B006
    layout: Layout = [],  # noqa: B006
    recipe: Recipe = "tiny",
    set_: Overrides = [],  # noqa: B006
    classes: Classes = None,
    max_side: MaxSide = None,
    budget: Budget = 5.0,
    plan: Plan = None,
    region: Region = None,
    route: Route = "bucket",
    volume_gb: VolumeGb = 20,
    prepare_on: PrepareOn = "local",
    speed: Annotated[
        float, typer.Option(min=1, max=3600, help="Simulated seconds in a real one.")
    ] = 60.0,
    json: Json = False,
) -> None:
    """Do all that `run linode` does, against a Linode that lives on this computer.

    No account, no root, no cost: the simulated machines are sandboxes here, with a real SSH server
    and the real set-up script, in which downloads and drivers are stand-ins. Without --archive it
    trains on a small generated one. The hours are simulated, so that one passes in a minute.
    """
    from pipeline.rehearsal import rehearsal, rehearsal_store, sample

    shown = archive or [sample()]
    parameters = parameters_of(
        machine="linode",
        archives=shown,
        layout=layout_of(layout),
        recipe=recipe,
        overrides=pairs(set_, "--set"),
        classes=classes or (None if archive else "background,disc,ring,cross"),
        max_side=max_side,
        store=rehearsal_store(),
        device="cpu",
        rental=given(
            budget=budget,
            plan=plan,
            region=region,
            route=route,
            volume_gb=volume_gb,
            prepare_on=prepare_on,
        ),
        wandb="offline",
    )
    with _shown() as terminal, rehearsal(Store.open(parameters.store), speed):
        _show_plan(parameters)
        _run(parameters, terminal, json=json)


def _show_plan(parameters: Parameters) -> None:
    """One screen: what it costs at the most, and what will be created."""
    from pipeline.plan import make_plan
    from pipeline.rental_tables import print_plan

    hours = parameters.limits.train_hours
    plan = make_plan(parameters.rental, hours, Store.open(parameters.store))
    print_plan(plan, stderr=True)


def _run(parameters: Parameters, terminal: "Terminal", *, json: bool) -> None:
    """Run the flow with a server that is ours where there is none, and show it."""
    store = Store.open(parameters.store)  # refused now rather than after Prefect's start
    _prepare_prefect()
    from pipeline.progress import listening

    try:
        with terminal:
            terminal.waiting("starting Prefect …")
            from pipeline.temporary_server import prefect_server

            with prefect_server():
                from pipeline.flow import voc_train

                listening.set((terminal,))
                outcome = voc_train(parameters)
    finally:
        if terminal.run_id and parameters.machine == "linode":
            _show_receipt(store, terminal.run_id)
    if json:
        print(outcome.model_dump_json())
        return
    from pipeline.tables import print_outcome

    print_outcome(outcome)


def _show_receipt(store: Store, run_id: str) -> None:
    """What it cost and when it was gone, however the run ended."""
    from infra.receipt import read_receipt
    from pipeline.rental_tables import print_receipt

    with suppress(Failure):  # whatever ended the run is the thing to hear of
        if receipt := read_receipt(store, run_id):
            print_receipt(receipt, stderr=True)


@contextmanager
def _shown() -> Iterator["Terminal"]:
    """A terminal for a run."""
    from pipeline.console import Terminal

    terminal = Terminal()
    try:
        yield terminal
    finally:
        this_run.set(terminal.run_id)


def _prepare_prefect() -> None:
    """Prefect talks to a log by default; here the terminal shows the run itself."""
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
