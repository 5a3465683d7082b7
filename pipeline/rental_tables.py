"""What a rental would be, was, and left behind, as tables."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from infra.doctor import Finding
    from infra.reaper_report import ReaperReport
    from infra.receipt import Receipt
    from pipeline.plan import Plan

_OFFERS = 8  # that are shown


def print_plan(plan: "Plan", *, stderr: bool = False) -> None:
    """One screen before anything is rented: offers, the worst case, what will be created."""
    console = Console(highlight=False, stderr=stderr)
    table = Table("plan", "region", "", "$/hour", "free", box=None, pad_edge=False)
    table.columns[3].justify = "right"
    for offer in plan.offers[:_OFFERS]:
        free = {True: "yes", False: "no", None: "?"}[offer.available]
        table.add_row(offer.plan, offer.region, offer.title, _amount(offer.dollars_per_hour), free)
    console.print(table)
    if (more := len(plan.offers) - _OFFERS) > 0:
        console.print(f"and {more} more{_where_all_are(plan)}", style="dim")
    best = plan.offers[0]
    hourly = _dollars(best.dollars_per_hour + plan.beside(best.region))
    console.print(f"\n[bold]{best.plan} in {best.region}, {hourly} an hour[/]")
    console.print(_what_it_means(plan))
    console.print()


def _where_all_are(plan: "Plan") -> str:
    """The command that lists the offers; none for a rehearsal's, whose provider ends with it."""
    if plan.provider.here:
        return ""
    named = {"--plan": plan.terms.plan, "--region": plan.terms.region}
    options = [f"{option} {name} " for option, name in named.items() if name]
    return f"; `voc-train plan {''.join(options)}--json` lists them"


def _what_it_means(plan: "Plan") -> Table:
    from pipeline.plan import deadline_in_words as in_words

    right, offer = plan.lease, plan.offers[0]
    hourly = offer.dollars_per_hour + plan.beside(offer.region)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(
        "first hour", f"{_dollars(plan.first_hour_of(offer))}; every begun hour is billed"
    )
    table.add_row("worst case", f"{_dollars(plan.worst_case)}, should it take all its hours")
    table.add_row(
        "at most",
        f"[bold]{_dollars(plan.terms.budget)}[/], the budget: it holds for all attempts together",
    )
    if monthly := plan.monthly:
        table.add_row(
            "this month",
            f"{_dollars(monthly.left)} of the worker's {_dollars(monthly.dollars)} is left before "
            "this",
        )
    table.add_row(
        "deadline",
        f"{in_words(right.until)} ({right.hours} h), were it rented now; then what is left is "
        "deleted",
    )
    if plan.terms.keep:
        table.add_row(
            "[bold]keep[/]",
            f"the machine stays until then: {_dollars(right.dollars)}, whatever training takes",
        )
    dearest = max(plan.offers, key=lambda offer: offer.dollars_per_hour)
    if dearest.dollars_per_hour > offer.dollars_per_hour:
        table.add_row(
            "if not free",
            f"the next of {len(plan.offers)} offers, up to {_dollars(dearest.dollars_per_hour)} an "
            f"hour for fewer hours; --plan {offer.plan} forbids it",
        )
    table.add_row("creates", Text("\n".join(plan.creates)))
    if not plan.terms.reaper:
        table.add_row(
            "[bold red]no reaper[/]",
            f"if this computer fails, {_dollars(hourly)} an hour go on until you run `voc-train "
            "reap --delete --run RUN`, or by hand: linode-cli linodes list --tags voc-train, then "
            "linode-cli linodes delete ID",
        )
    for sentence in plan.lacks:
        table.add_row("[bold red]first[/]", Text(sentence))
    return table


def _dollars(amount: float) -> str:
    return f"${_amount(amount)}"


def _amount(dollars: float) -> str:
    """To the cent, or finer where a cent is too coarse."""
    return f"{dollars:.4f}" if 0 < dollars < 0.1 else f"{dollars:.2f}"


def print_receipt(receipt: "Receipt", *, stderr: bool = False) -> None:
    """Line by line: created, proven gone, dollars."""
    console = Console(highlight=False, stderr=stderr)
    if not receipt.lines:
        console.print("\nNothing was created.\n")
        return
    steps = (f"{phase.name} {phase.time:%H:%M:%S}" for phase in receipt.phases)
    console.print(f"\n{' → '.join(steps)} (UTC)" if receipt.phases else "")
    table = Table("what", "id", "created", "gone", "hours", "dollars", box=None, pad_edge=False)
    for column in table.columns:
        column.no_wrap = column.header != "gone"  # which may be a sentence
    for column in table.columns[4:]:
        column.justify = "right"
    for line in receipt.lines:
        table.add_row(
            line.plan or line.kind,
            str(line.id or "?"),
            f"{line.created:%d %b %H:%M:%S}" if line.created else "?",
            line.end_in_words,
            str(line.hours or ""),
            _amount(line.dollars) if line.dollars_per_hour else "–",
        )
    table.add_section()
    table.add_row("total", "", "", "", "", _amount(receipt.dollars), style="bold")
    console.print(table)
    console.print()


def print_reaped(report: "ReaperReport") -> None:
    """What is ours at the provider, what is past its deadline, and what its end saves."""
    console = Console(highlight=False)
    for kind, why in report.unseen.items():
        console.print(f"Could not look after every {kind}: {why}", style="bold red", markup=False)
    if not report.found:
        rest = " among what could be seen" if report.unseen else ""
        console.print(f"{report.time:%Y-%m-%d %H:%M} UTC: nothing of ours is there{rest}.")
        return
    console.print(f"{report.time:%Y-%m-%d %H:%M} UTC:")
    table = Table("what", "id", "label", "until (UTC)", "$/hour", "", box=None, pad_edge=False)
    for column in table.columns:
        column.no_wrap = column.header != "label"
    table.columns[2].overflow = "fold"
    table.columns[4].justify = "right"
    for found in report.found:
        price = found.dollars_per_hour
        table.add_row(
            found.kind,
            str(found.id),
            found.label,
            f"{found.until:%d %b %H:%M}",
            "?" if price is None else _amount(price),
            found.state,
        )
    console.print(table)
    for found in report.found:
        if found.said:
            console.print(f"\n{found.kind} {found.id}: {found.said}", markup=False)
    if gone := [found for found in report.found if found.state == "gone"]:
        saved = sum(found.dollars_per_hour or 0 for found in gone)
        console.print(f"\n{len(gone)} deleted, which saves {_dollars(saved)} an hour.")
    if live := [found for found in report.found if found.state == "live"]:
        hourly = sum(found.dollars_per_hour or 0 for found in live)
        console.print(
            f"\n{len(live)} live, at {_dollars(hourly)} an hour, until their deadline; sooner with "
            "`voc-train reap --delete --run RUN`."
        )
    if report.expired:
        cure = (
            "the next look asks again"
            if report.deletes
            else "`voc-train reap --delete` ends them, which saves as much"
        )
        console.print(
            f"\n{len(report.expired)} past their deadline, at "
            f"{_dollars(report.dollars_per_hour)} an hour; {cure}."
        )


def print_findings(findings: Iterable["Finding"]) -> None:
    """What was looked at: fine, in the way with its cure beneath, or not to be seen from here."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for found in findings:
        sign = {True: "[green]✓[/]", False: "[bold red]✗[/]", None: "[dim]–[/]"}[found.ok]
        cure = Text(f"\n→ {found.cure}" if found.cure else "", style="bold")
        table.add_row(sign, found.name, Text(found.said) + cure)
    Console(highlight=False).print(table)
