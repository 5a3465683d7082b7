"""Commands that run the whole flow: here, on a rented machine, on one's own host, for trial."""

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from infra.failure import Failure
from infra.stores import Store
from model.errors import InputError
from pipeline.cli.groups import grouped
from pipeline.cli.options import (
    Device,
    Force,
    Json,
    Keep,
    Learning,
    NoReaper,
    Photos,
    PrepareOn,
    Promote,
    Recipe,
    SshFrom,
    StoreUrl,
    Terms,
    Wandb,
    Yes,
    checked,
    given,
    must_agree,
    parameters_of,
    run_id,
    this_run,
)
from pipeline.parameters import Parameters, default_ssh_from, default_store
from pipeline.run_record import Outcome, RunRecord, Unchanged, is_trained, recorded_run

if TYPE_CHECKING:
    from pipeline.console import Terminal

T = TypeVar("T")

app = typer.Typer(help="Run the whole flow.", no_args_is_help=True)

_FOLLOWED = "Where its machine is at work, that is followed and nothing is rented. Otherwise:\n"
_FOLLOWED_SWEEP = (
    "Where its machine is at work, that is followed to the end of its setting. For what is left:\n"
)


@app.command("local", short_help="Run it on this computer.")
@grouped
def run_local(
    *,
    photos: Photos,
    recipe: Recipe = "voc-segmentnet",
    learning: Learning,
    prepare_on: PrepareOn = "local",
    store: StoreUrl = "",
    device: Device = "auto",
    wandb: Wandb = "auto",
    promote: Promote = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Extract, separate, build the dataset, train and fetch the checkpoint, on this computer.

    Example: voc-train run local --archive VOCtrainval_11-May-2012.tar --set epochs=5
    """
    parameters = parameters_of(
        photos,
        learning,
        recipe=recipe,
        store=store,
        device=device,
        rental={"prepare_on": prepare_on},
        wandb=wandb,
        promote=promote,
        force=force,
    )
    with shown() as terminal:
        _run(parameters, terminal, json=json)


@app.command("linode", short_help="Rent a GPU at Linode, train there, delete it.")
@grouped
def run_linode(
    *,
    photos: Photos,
    recipe: Recipe = "voc-segmentnet",
    learning: Learning,
    terms: Terms,
    store: StoreUrl = "",
    ssh_from: SshFrom = [],  # noqa: B006  # typer's way
    keep: Keep = False,
    no_reaper: NoReaper = False,
    wandb: Wandb = "auto",
    promote: Promote = False,
    force: Force = False,
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
        photos,
        learning,
        machine="linode",
        recipe=recipe,
        store=store,
        rental=given(**asdict(terms), ssh_from=ssh_from, keep=keep, reaper=not no_reaper),
        wandb=wandb,
        promote=promote,
        force=force,
    )
    with shown() as terminal:
        # With nobody to ask, the flow says what is wrong, where anything has to be rented at all.
        with suppress(Failure) if promote and yes else nullcontext():
            show_plan(parameters)
        if not yes:
            must_agree()
        _run(parameters, terminal, json=json)


@app.command("ssh", short_help="Train on a host of your own that you reach by SSH.")
@grouped
def run_ssh(
    *,
    host: Annotated[str, typer.Argument(metavar="USER@HOST[:PORT]")],
    photos: Photos,
    recipe: Recipe = "voc-segmentnet",
    learning: Learning,
    python: Annotated[
        str,
        typer.Option(
            help="A Python there that has torch, obstore and the like: the README says what."
        ),
    ] = "python3",
    prepare_on: PrepareOn = "local",
    store: StoreUrl = "",
    device: Device = "auto",
    wandb: Wandb = "auto",
    json: Json = False,
) -> None:
    """Prepare here, train on a host of your own, bring the checkpoint home.

    Its host key must be in ~/.ssh/known_hosts; your SSH agent or keys let you in. The bucket's key
    of this environment goes there for as long as the job runs.
    """
    parameters = parameters_of(
        photos,
        learning,
        machine="ssh",
        ssh_host=host,
        ssh_python=python,
        recipe=recipe,
        store=store,
        device=device,
        rental={"prepare_on": prepare_on},
        wandb=wandb,
    )
    with shown() as terminal:
        _run(parameters, terminal, json=json)


@grouped
def rehearse(
    *,
    photos: Photos,
    recipe: Recipe = "tiny",
    learning: Learning,
    terms: Terms,
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
    from pipeline.sample_archive import SAMPLE_CLASSES

    if not photos.archives:
        photos = replace(photos, archives=[sample()])
        learning = replace(learning, classes=learning.classes or ",".join(SAMPLE_CLASSES))
    parameters = parameters_of(
        photos,
        learning,
        machine="linode",
        recipe=recipe,
        store=rehearsal_store(),
        device="cpu",
        rental=given(**asdict(terms)),
        wandb="offline",
    )
    with shown() as terminal, rehearsal(Store.open(parameters.store), speed):
        terminal.rehearses = True
        show_plan(parameters)
        _run(parameters, terminal, json=json)


def resume(
    run: Annotated[str, typer.Argument(help="A run's id; see `voc-train status`.")],
    store: StoreUrl = "",
    budget: Annotated[
        float | None, typer.Option(help="Dollars at most, all that it rented included.")
    ] = None,
    ssh_from: SshFrom = [],  # noqa: B006
    no_reaper: NoReaper = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Go on with a run that was interrupted, or whose controller is gone, from any computer.

    Where its machine is at work, it is followed to its end. Otherwise what is left of it is
    deleted, and training goes on elsewhere from the newest checkpoint in the store. The archives
    are needed only where the dataset is not in the store yet. The token alone will do for a bucket
    at Linode: where the environment has no key for it, one is made, and deleted at the end.
    """
    from infra.clock import Clock
    from infra.visit import access_to

    url = store or default_store()
    with access_to(url, run_id(run), Clock.from_environment()):
        changed = given(budget=budget, ssh_from=tuple(ssh_from) or default_ssh_from())
        if no_reaper:
            changed["reaper"] = False
        _resume(Store.open(url), run, changed, yes=yes, json=json)


def _resume(where: Store, run: str, changed: dict[str, Any], *, yes: bool, json: bool) -> None:
    record = recorded_run(where, run)
    if record.unchanged:
        raise InputError(f"Run {run} has ended: {record.unchanged.said}.")
    if record.state == "done":
        what = "status" if record.trials else "fetch"
        shows = "shows its settings" if record.trials else "brings its checkpoint home"
        raise InputError(f"Run {run} is done; `voc-train {what} {run}` {shows}.")
    terms = record.parameters.get("rental") or {}
    parameters = checked(
        Parameters,
        **record.parameters | {"store": where.url, "rental": terms | changed},
    )
    with shown() as terminal:
        if (
            parameters.machine == "linode"
            and not yes
            and not _is_trained(where, record, parameters)
        ):
            print(_FOLLOWED_SWEEP if record.trials else _FOLLOWED, file=sys.stderr)
            show_plan(parameters, goes_on=True)
            must_agree(
                "Go on?",
                "Not gone on. What the run has rented stays until its deadline, and costs: see "
                f"`voc-train reap --run {run}`, which deletes it with --delete.",
            )
        if record.trials:
            from pipeline.cli.sweeps import run_sweep

            run_sweep(parameters, terminal, json=json, resume=record.run_id)
            return
        _run(parameters, terminal, json=json, resume=record.run_id)


def _is_trained(where: Store, record: RunRecord, parameters: Parameters) -> bool:
    """Whether all that is left is to fetch the checkpoint and to delete, which costs nothing."""
    if record.trials:
        from pipeline.sweep import all_over

        return all_over(where, record)
    return not parameters.by_volume and is_trained(where, record.run_id)


def show_plan(parameters: Parameters, *, goes_on: bool = False) -> None:
    """One screen: what it costs at the most, and what will be created."""
    from pipeline.plan import make_plan
    from pipeline.rental_tables import print_plan

    hours = parameters.limits.train_hours
    plan = make_plan(parameters.rental, hours, Store.open(parameters.store), goes_on=goes_on)
    print_plan(plan, stderr=True)


def _run(
    parameters: Parameters, terminal: "Terminal", *, json: bool, resume: str | None = None
) -> None:
    """Run the flow, and show what came of it."""
    outcome = run_flow(parameters, terminal, resume=resume)
    if json:
        print(outcome.model_dump_json())
        return
    if isinstance(outcome, Unchanged):
        print(outcome.said)
        return
    from pipeline.tables import print_outcome

    print_outcome(outcome)


def run_flow(
    parameters: Parameters, terminal: "Terminal", *, resume: str | None = None
) -> Outcome | Unchanged:
    """Run the flow `voc-train`."""

    def flow() -> Outcome | Unchanged:
        from pipeline.flow import voc_train

        return voc_train(parameters, resume)

    return driven(parameters, terminal, flow)


def driven(parameters: Parameters, terminal: "Terminal", flow: Callable[[], T]) -> T:
    """Run a flow with a server that is ours where there is none, and show it on the way."""
    store = Store.open(parameters.store)  # refused now rather than after Prefect's start
    if store.url != Store.open(default_store()).url:
        terminal.options = ("--store", shlex.quote(store.url))
    prepare_prefect()
    from pipeline.progress import listening

    try:
        with terminal:
            terminal.waiting("starting Prefect …")
            from pipeline.temporary_server import prefect_server

            with prefect_server():
                listening.set((terminal,))
                return flow()
    finally:
        if terminal.run_id and parameters.machine == "linode":
            _show_receipt(store, terminal.run_id)


def _show_receipt(store: Store, run_id: str) -> None:
    """What it cost and when it was gone, however the run ended."""
    from infra.receipt import read_receipt
    from pipeline.rental_tables import print_receipt

    with suppress(Failure):  # whatever ended the run is the thing to hear of
        if receipt := read_receipt(store, run_id):
            print_receipt(receipt, stderr=True)


@contextmanager
def shown() -> Iterator["Terminal"]:
    """A terminal for a run."""
    from pipeline.console import Terminal

    terminal = Terminal()
    try:
        yield terminal
    finally:
        this_run.set(terminal.run_id)


def prepare_prefect() -> None:
    """Prefect and Dask talk to a log by default; here the terminal shows the run itself."""
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "critical")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
