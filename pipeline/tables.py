"""Results as tables on standard output."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from model.recipe import Recipe, as_typed
from pipeline.console import harmless
from pipeline.run_record import Outcome

if TYPE_CHECKING:  # what a table shows is there when it is asked for; others need not import it
    from model.evaluate import Score
    from pipeline.champion import History
    from pipeline.proofs import Lineage
    from pipeline.provenance import Compared
    from pipeline.sweep import Comparison

_FIXED = {"name", "summary"}


def print_outcome(outcome: Outcome) -> None:
    """The stages with their seconds, the score, and where checkpoint and report lie."""
    table = Table("stage", "seconds", "", box=None, pad_edge=False, header_style="bold")
    table.columns[1].justify = "right"
    for stage, seconds in outcome.seconds.items():
        table.add_row(stage, f"{seconds:.1f}", "reused" if stage in outcome.reused else "")
    table.add_section()
    table.add_row("total", f"{sum(outcome.seconds.values()):.1f}", "", style="bold")
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print(f"\n[bold]mIoU {outcome.miou:.4f}[/] on the validation set, run {outcome.run_id}")
    if outcome.decision:
        console.print(f"{outcome.decision}: {outcome.decision_said}", markup=False)
    console.print(f"checkpoint  {outcome.checkpoint}", markup=False)
    console.print(f"report      {outcome.report}", markup=False)


def print_champion(history: "History", url: str, last: int) -> None:
    """The champion, and the latest decisions with what became of them."""
    console = Console(highlight=False, soft_wrap=True)
    if history.champion is None:
        console.print(f"No champion in {url} yet; a run with --promote makes one.", markup=False)
    else:
        kept = history.champion.checkpoint
        console.print(f"[bold]run {kept.run_id}[/], step {kept.step}, mIoU {kept.miou:.4f}")
        console.print(f"checkpoint  {kept.key}/checkpoint.pt in {url}", markup=False)
        console.print(f"sha256      {kept.sha256}", markup=False)
        console.print(f"            voc-train fetch {kept.run_id}\n", markup=False)
    for one in history.decisions[::-1][:last]:
        if one in history.line and one != history.champion:
            follower = history.line[history.line.index(one) + 1].checkpoint.run_id
            mark = f", until {follower}"
        else:
            mark = "" if one in history.counting else ", which does not count: another came first"
        console.print(
            f"{one.number:>3}  {one.checkpoint.run_id}  "
            f"{one.time.astimezone():%Y-%m-%d %H:%M}  {one.kind}{mark}; {one.said}",
            markup=False,
        )


def print_recipes(recipes: Iterable[Recipe]) -> None:
    """What each is for, and its net, loss, image size and epochs."""
    table = Table("recipe", "", box=None, pad_edge=False, header_style="bold")
    table.columns[0].no_wrap = True
    for recipe in recipes:
        net = f"{recipe.net} ({recipe.encoder})" if recipe.encoder else recipe.net
        facts = f"{net}, {recipe.loss}, {recipe.image_size} pixels, {recipe.epochs} epochs"
        table.add_row(recipe.name, f"{escape(recipe.summary)}\n[dim]{escape(facts)}[/]")
    console = Console(highlight=False)
    console.print(table)
    console.print("\n`voc-train recipes NAME` shows all settings of one.", style="dim")


def print_recipe(recipe: Recipe) -> None:
    """All settings, those that are not what a new recipe has marked; --set changes any of them."""
    table = Table("  setting", "value", "", box=None, pad_edge=False, header_style="dim")
    for name, field in type(recipe).model_fields.items():
        if name not in _FIXED:
            value = getattr(recipe, name)
            own = value != field.default
            mark, style = ("* ", "bold") if own else ("  ", "")
            table.add_row(
                mark + name, as_typed(value), f"[not bold]{escape(_meaning(field))}", style=style
            )
    console = Console(highlight=False)
    console.print(f"[bold]{recipe.name}[/]  {recipe.summary}\n")
    console.print(table)
    console.print("\n* not the default; --set KEY=VALUE changes any of them", style="dim")


def _meaning(field: FieldInfo) -> str:
    """What a setting does, and what there is to choose from."""
    said = [field.description] if field.description else []
    if get_origin(field.annotation) is Literal:
        choices = get_args(field.annotation)
        said.insert(0, f"one of {', '.join(choices)}" if choices[1:] else "the only one so far")
    return "; ".join(said)


def print_sweep(sweep: "Comparison") -> None:
    """A sweep's trials, best first, and where plot and report lie."""
    table = Table(*sweep.varied, box=None, pad_edge=False, header_style="bold")
    paid = sweep.dollars is not None
    for title in ("mIoU", "Dice", "seconds", *(["dollars"] if paid else [])):
        table.add_column(title, justify="right")
    table.add_column("run", no_wrap=True)
    table.add_column("")
    for row in sweep.rows:
        numbers = [_share(row.miou), _share(row.dice), _rounded(row.seconds, 0)]
        numbers += [_rounded(row.dollars, 2)] if paid else []
        best = row.run_id == sweep.best
        table.add_row(
            *map(escape, row.settings.values()),
            *numbers,
            escape(row.run_id),
            "best" if best else row.how_it_stands,
            style="bold" if best else "",
        )
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    for row in sweep.rows:
        if row.cause:
            console.print(Text(harmless(f"{row.run_id}  {row.cause}: {row.message}"), style="dim"))
    for what, path in (("plot", sweep.plot), ("report", sweep.report)):
        if path:
            console.print(f"{what:<8}{path}", markup=False)


def _rounded(value: float | None, places: int) -> str:
    return "–" if value is None else f"{value:.{places}f}"


def print_score(score: "Score") -> None:
    """IoU and Dice by class, and the means."""
    table = Table("class", "IoU", "Dice", box=None, pad_edge=False, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, iou in score.iou.items():
        table.add_row(escape(name), _share(iou), _share(score.dice[name]))
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"\n[bold]mIoU {score.miou:.4f}[/], mean Dice {score.mean_dice:.4f}, "
        f"pixel accuracy {score.pixel_accuracy:.4f}, {score.images:,} images of {score.split}"
    )


def print_comparison(compared: "Sequence[Compared]") -> None:
    """What made a checkpoint, one thing a line, and beside it what is another here."""
    console = Console(highlight=False, soft_wrap=True)
    for one in compared:
        mark = "  " if one.same else "* "
        line = Text(harmless(f"{mark}{one.what:<31} {one.made}"), "" if one.same else "bold")
        console.print(line if one.same else line.append(harmless(f"  here: {one.here}")))
    if not all(one.same for one in compared):
        console.print("\n* another here than what made it", style="dim")


_MARKS = {"verified": ("✓", "green"), "missing": ("–", "dim"), "damaged": ("✗", "bold red")}


def print_lineage(lineage: "Lineage") -> None:
    """The chain, and under each link what was looked at: its hash, or what is wrong with it."""
    console = Console(highlight=False, soft_wrap=True)
    for link in lineage.links:
        title = Text(harmless(f"{link.kind:<11}{link.name}"), "bold")
        console.print(title.append(harmless(f"  {link.said}".rstrip()), "not bold"))
        for proof in link.proofs:
            mark, style = _MARKS[proof.state]
            said = proof.hash or proof.said
            if proof.state == "missing":
                found = f" ({proof.hash})" if proof.hash else ""
                said = f"not verified: {proof.said}{found}"
            elif proof.state == "damaged":
                said = f"damaged: {proof.hash or ''} {proof.said}".replace(":  ", ": ")
            console.print(Text(f"  {mark} ", style).append(harmless(f"{proof.what:<16} {said}")))


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
