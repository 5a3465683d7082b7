"""Commands about the champion: who it is, and how a person changes that."""

import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic_core import to_json

from infra.failure import Failure
from infra.stores import Store
from pipeline.cli.options import Json, StoreUrl, run_id
from pipeline.parameters import default_store, home

if TYPE_CHECKING:
    from pipeline.champion import History

app = typer.Typer()


@app.command(short_help="Show the champion, and what was decided.")
def champion(
    store: StoreUrl = "",
    last: Annotated[int, typer.Option(min=0, help="How many decisions to show.")] = 10,
    json: Json = False,
) -> None:
    """Show the champion, whether its file is there, whom it came after, and the latest decisions.

    A run with --promote decides; `voc-train promote` and `voc-train rollback` do so by hand.
    """
    from pipeline.champion import History, must_be_there

    where = Store.open(store or default_store())
    history = History.load(where)
    problem = None
    try:
        if history.champion:
            must_be_there(where, history.champion)
    except Failure as failure:
        problem = str(failure)
    if json:
        said = {"champion": history.champion, "decisions": history.decisions, "problem": problem}
        print(to_json(said).decode())
        return
    from pipeline.tables import print_champion

    print_champion(history, where.url, last)
    if problem:
        print(f"voc-train: {problem}", file=sys.stderr)


@app.command(short_help="Make the checkpoint of a run champion.")
def promote(
    run: Annotated[str, typer.Argument(help="A run's id; see `voc-train status`.")],
    store: StoreUrl = "",
    json: Json = False,
) -> None:
    """Make the best checkpoint of a run champion, whatever its score.

    The checkpoint is verified first. The next run with --promote is held against it.
    """
    from pipeline.champion import promote_by_hand

    where = Store.open(store or default_store())
    folder = home() / "checkpoints" / run_id(run)
    say = partial(print, file=sys.stderr)
    history = promote_by_hand(where, run_id(run), folder, say)
    if history.champion and history.champion.checkpoint.run_id != run:
        say("Somebody else changed the champion in this moment; promote again if that is wanted.")
    _show(where, history, json=json)


@app.command()
def rollback(store: StoreUrl = "", json: Json = False) -> None:
    """Make champion again whom the present champion came after.

    Its checkpoint must still be there. What was rolled back is not trained again by itself: only
    when something has changed.
    """
    from pipeline.champion import roll_back

    where = Store.open(store or default_store())
    _show(where, roll_back(where), json=json)


def _show(where: Store, history: "History", *, json: bool) -> None:
    from infra.notifications import notify
    from pipeline.wandb_sync import show_champion

    made = history.champion
    assert made
    show_champion(where, lambda line: print(line, file=sys.stderr))
    kept = made.checkpoint
    notify(f"voc-train: champion now: run {kept.run_id}", made.said)
    if json:
        print(made.model_dump_json())
        return
    print(f"champion now: run {kept.run_id}, step {kept.step}, mIoU {kept.miou:.4f}")
