"""The command that looks at what stands between this computer and a rental."""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic_core import to_json

from infra.failure import Cause, Failure
from infra.stores import Store
from pipeline.cli.options import Json, Plan, Region, SshFrom, StoreUrl
from pipeline.parameters import default_ssh_from, default_store, home

if TYPE_CHECKING:
    from infra.clock import Clock
    from infra.doctor import Finding

_ABORT_AFTER = 2  # days; no upload of ours takes so long


def doctor(
    store: StoreUrl = "",
    plan: Plan = None,
    region: Region = None,
    ssh_from: SshFrom = [],  # noqa: B006
    ask_wandb: Annotated[
        bool, typer.Option("--ask-wandb", help="Ask W&B whether it knows WANDB_API_KEY.")
    ] = False,
    make_bucket: Annotated[
        bool,
        typer.Option(
            "--make-bucket",
            help="First make the bucket of --store if it is missing, have it abort broken uploads "
            "by itself, and clear those that are there.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Look at token, account, offers, store, reaper, clock, SSH, keys, messages, disk and budget.

    Nothing is created at the provider. Exits with 1 when something that a rental needs is missing.
    """
    url = store or default_store()
    if make_bucket:
        _make_bucket(Store.open(url))
    findings = _findings(url, plan, region, ssh_from or list(default_ssh_from()), ask_wandb)
    well = all(found.ok is not False for found in findings)
    if json:
        print(to_json({"ok": well, "findings": [one._asdict() for one in findings]}).decode())
    else:
        from pipeline.rental_tables import print_findings

        print_findings(findings)
    if not well:
        raise typer.Exit(1)


def _findings(
    store_url: str, plan: str | None, region: str | None, ssh_from: list[str], ask_wandb: bool
) -> "list[Finding]":
    from infra.clock import Clock
    from infra.doctor import Finding, examine
    from infra.linode import URL, Linode

    clock = Clock.from_environment()
    provider: Linode | Failure
    store: Store | Failure
    try:
        provider = Linode.from_environment(clock)
    except Failure as failure:
        provider = failure
    try:
        store = Store.open(store_url)
    except Failure as failure:
        store = failure
    found = examine(
        provider=provider,
        store=store,
        clock=clock,
        home=home(),
        api_url=os.environ.get("LINODE_URL") or URL,
        api_ca=os.environ.get("LINODE_CA") or None,
        settings=None if isinstance(provider, Failure) else provider.settings,
        plan=plan,
        region=region,
        ssh_from=ssh_from,
        ask_wandb=ask_wandb,
    )
    return [*found, Finding("monthly budget", *_budget(store, clock))]


def _budget(store: Store | Failure, clock: "Clock") -> tuple[bool | None, str]:
    from pipeline.monthly_budget import dollars_a_month, monthly_budget

    try:
        if dollars_a_month() is None:
            return None, "Nothing bounds what a month may cost: VOC_TRAIN_MONTHLY_BUDGET is unset."
        if isinstance(store, Failure):
            return None, "Not looked at: see store."
        month = monthly_budget(store, clock)
    except Failure as failure:
        if failure.cause is Cause.STORE:
            return None, "Not looked at: see store."
        return False, str(failure)
    assert month
    return True, f"${month.left:.2f} of ${month.dollars:.2f} is left in {month.month}."


def _make_bucket(store: Store) -> None:
    from infra.buckets import abort_uploads_after, clear_broken_uploads, ensure_bucket

    made = ensure_bucket(store, create=True)
    _say(f"{store.url}: the bucket {'was made' if made else 'is there'}")
    try:
        abort_uploads_after(store, _ABORT_AFTER)
        _say(f"it aborts broken uploads after {_ABORT_AFTER} days")
    except Failure as failure:  # it can be used all the same
        _say(f"it does not abort broken uploads by itself: {failure}")
    for upload in clear_broken_uploads(store):
        _say(f"cleared the broken upload of {upload.key}, begun {upload.begun:%Y-%m-%d %H:%M} UTC")


def _say(line: str) -> None:
    print(line, file=sys.stderr)
