"""Commands about renting: what it would cost, what is there, what is in the way."""

import sys
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic_core import to_json

from infra.failure import Cause, Failure
from infra.stores import Store
from pipeline.cli.doctor import doctor
from pipeline.cli.groups import grouped
from pipeline.cli.options import (
    AnyPlan,
    Json,
    Limits,
    NoReaper,
    Region,
    SshFrom,
    StoreUrl,
    Terms,
    Yes,
    checked,
    must_agree,
    pairs,
    run_id,
    this_run,
)
from pipeline.parameters import Limits as LimitsModel
from pipeline.parameters import RentalTerms, default_store

if TYPE_CHECKING:
    from infra.clock import Clock

app = typer.Typer()
app.command(short_help="See what stands in the way of a rental, and how to cure it.")(doctor)


@app.command(short_help="Show what a rental would cost and create; touches nothing.")
@grouped
def plan(
    terms: Terms,
    ssh_from: SshFrom = [],  # noqa: B006
    limits: Limits = [],  # noqa: B006
    store: StoreUrl = "",
    json: Json = False,
) -> None:
    """Show the offers, the worst case in dollars and everything that `run linode` would create."""
    from pipeline.plan import make_plan
    from pipeline.rental_tables import print_plan

    wanted = checked(RentalTerms, **asdict(terms), ssh_from=ssh_from)
    hours = checked(LimitsModel, **pairs(limits, "--limit", LimitsModel.model_fields)).train_hours
    made = make_plan(wanted, hours, Store.open(store or default_store()), rent_now=False)
    if json:
        print(to_json(made.as_dict()).decode())
    else:
        print_plan(made)


@app.command(short_help="Prove create, SSH, store and delete, on the cheapest machine.")
def smoke(
    plan: AnyPlan = "g6-nanode-1",
    region: Region = None,
    ssh_from: SshFrom = [],  # noqa: B006
    store: StoreUrl = "",
    no_reaper: NoReaper = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Rent the cheapest machine for minutes, have it use the store, delete it, show the receipt.

    The whole way of `run linode` but the training: firewall, bucket key, StackScript, machine,
    login, hand-over, store. It costs one billed hour, two at the most.
    """
    from infra.lease import Patience
    from infra.rental import Rental
    from infra.smoke import smoke as prove
    from pipeline.messenger import tell_of_failure
    from pipeline.plan import smoke_plan
    from pipeline.rental_tables import print_plan, print_receipt
    from pipeline.run import new_run_id

    terms = checked(RentalTerms, plan=plan, region=region, ssh_from=ssh_from, reaper=not no_reaper)
    where = Store.open(store or default_store())
    made = smoke_plan(terms, where)
    print_plan(made, stderr=True)
    if not yes:
        must_agree()
    patience = Patience().in_time_of(made.clock)
    rental = Rental(
        made.provider, where, new_run_id(), clock=made.clock, patience=patience, say=_say
    )
    this_run.set(rental.run_id)
    try:
        try:
            prove(
                rental,
                where,
                made.offers,
                budget=made.terms.budget,
                ssh_from=made.ssh_from,
                bucket=made.bucket,
                endpoint=made.endpoint,
            )
        finally:
            rental.tear_down()
    except Failure as failure:
        if failure.cause is Cause.LEAKED:
            tell_of_failure(f"run {rental.run_id}", f"{failure.cause}: {failure}")
        raise
    finally:
        print_receipt(rental.receipt(), stderr=json)
    if json:
        print(rental.receipt().model_dump_json())


@app.command(short_help="Show or delete what is past its deadline.")
def reap(
    delete: Annotated[bool, typer.Option("--delete", help="Delete, instead of showing.")] = False,
    run: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Only what is this run's, whatever its deadline."),
    ] = None,
    every: Annotated[
        float | None, typer.Option(metavar="MINUTES", help="Go on until Ctrl-C.", min=0.1)
    ] = None,
    store: StoreUrl = "",
    json: Json = False,
) -> None:
    """Show or delete everything of ours at the provider that is past its deadline.

    It needs no run's help: what is ours says so by its label and tags, or stands in the store.
    Run it on another computer than the one that rents, by cron or with --every.
    """
    from infra.clock import Clock

    clock = Clock.from_environment()
    url = store or default_store()
    only = run and run_id(run)
    if _keep_looking(url, clock, every, delete=delete, run=only, json=json):
        raise typer.Exit(1)


def _keep_looking(
    url: str, clock: "Clock", every: float | None, *, delete: bool, run: str | None, json: bool
) -> bool:
    """Whether at the last look something was there that should be gone."""
    lingers = False
    begun = False
    while not begun or every is not None:
        if begun and every is not None:
            clock.sleep(every * 60)
        try:
            lingers = _look(url, clock, delete=delete, run=run, json=json)
        except Exception as error:
            mistyped = not begun and isinstance(error, Failure) and error.permanent
            if every is None or mistyped:
                raise
            _tell_failed(clock.now(), error, json=json)  # the next look may find it all again
        begun = True
    return lingers


def _look(url: str, clock: "Clock", *, delete: bool, run: str | None, json: bool) -> bool:
    """One look of the reaper; returns whether something may be there that should be gone."""
    from infra.linode import Linode
    from infra.reaper import reap as look
    from infra.visit import access_to
    from pipeline.messenger import look_before, tell_of_leak
    from pipeline.rental_tables import print_reaped
    from pipeline.run import new_run_id

    # Each look has its own key, or after some days it would delete the one that it uses; and not
    # one of the run's, which it would delete at once.
    with access_to(url, new_run_id(), clock):
        provider, store = Linode.from_environment(clock), Store.open(url)
        before = look_before(store)
        report = look(provider, store, clock, delete=delete, run_id=run, say=_say)
        if run is None:
            tell_of_leak(store, report, before)
    if json:
        print(report.model_dump_json(), flush=True)
    else:
        print_reaped(report)
    return not report.clean


def _tell_failed(time: datetime, error: Exception, *, json: bool) -> None:
    said = str(error) if isinstance(error, Failure) else type(error).__name__
    if json:
        print(to_json({"time": time, "error": said}).decode(), flush=True)
    _say(f"{time:%Y-%m-%d %H:%M} UTC: this look failed: {said}")


def _say(line: str) -> None:
    from pipeline.console import harmless

    print(harmless(line), file=sys.stderr, flush=True)
