"""The command that makes room."""

import sys
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic_core import to_json

from infra.failure import Failure
from infra.stores import Store
from pipeline.cli.options import Json, StoreUrl
from pipeline.parameters import default_store, home

if TYPE_CHECKING:
    from pipeline.caches import Cached
    from pipeline.pruning import Item, Plan


def prune(
    delete: Annotated[bool, typer.Option("--delete", help="Delete, instead of showing.")] = False,
    keep: Annotated[
        int, typer.Option(metavar="N", help="So many of the last runs stay.", min=0)
    ] = 10,
    older_than: Annotated[
        int, typer.Option(metavar="DAYS", help="What began less than so long ago stays.", min=0)
    ] = 0,
    most: Annotated[
        float,
        typer.Option(
            metavar="PERCENT",
            help="Refuse to delete more than this of the runs, or of the bytes.",
            min=0,
            max=100,
        ),
    ] = 90.0,
    local: Annotated[
        bool,
        typer.Option(
            "--local",
            help="Also this computer's copies of archives and datasets, and what killed jobs left "
            "here, if nobody touched it for a day; never a checkpoint.",
        ),
    ] = False,
    store: StoreUrl = "",
    json: Json = False,
) -> None:
    """Show or delete what the store needs no more: old runs, and data that no run needs.

    What stays: the champion, and all that it was made from; the runs of earlier champions; the last
    runs; whatever somebody works on. Of a run that goes its record and its receipt stay.
    """
    from pipeline import caches, pruning
    from pipeline.holdings import survey

    where = Store.open(store or default_store())
    terms = pruning.Terms(keep, timedelta(days=older_than))
    held = survey(where)
    plan = pruning.what_may_go(held, terms)
    copies = list(caches.copies(home(), held)) if local else []
    if not json:
        _show(plan, copies)
    refusal = None
    try:
        pruning.must_not_be_too_much(plan, held, most)
    except Failure as failure:
        refusal = failure
    gone: tuple[Item, ...] = ()
    cleared: list[caches.Cached] = []
    if delete:
        if refusal:
            raise refusal
        gone = pruning.prune(where, plan, held, terms, say=_say)
        if copies:  # of a run that somebody may have gone on with meanwhile
            cleared = caches.clear(copies, home(), survey(where))
    if json:
        print(to_json(_as_dict(plan, copies, gone, cleared, refusal, deletes=delete)).decode())
    elif delete:
        print(f"{len(gone) + len(cleared)} deleted.")
    elif refusal:
        print(f"With --delete it would be refused: {refusal}")
    elif plan.items or copies:
        print("Nothing was deleted; --delete does it.")


def _show(plan: "Plan", copies: "list[Cached]") -> None:
    from pipeline.pruning_table import print_pruning

    print_pruning(plan, copies)


def _as_dict(
    plan: "Plan",
    copies: "list[Cached]",
    gone: "tuple[Item, ...]",
    cleared: "list[Cached]",
    refusal: Failure | None,
    *,
    deletes: bool,
) -> dict[str, object]:
    deleted = {(item.kind, item.name) for item in gone}
    items = [
        {
            **{key: value for key, value in asdict(item).items() if key != "entries"},
            "objects": len(item.entries),
            "deleted": (item.kind, item.name) in deleted,
        }
        for item in plan.items
    ]
    return {
        "deletes": deletes,
        "items": items,
        "local": [asdict(copy) | {"deleted": copy in cleared} for copy in copies],
        "bytes": sum(item.size for item in plan.items) + sum(copy.size for copy in copies),
        "stays": plan.stays,
        "left_alone": plan.left_alone,
        "refused": str(refusal) if refusal else None,
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr)
