"""Commands about where a checkpoint comes from: what made it, and whether that makes it again."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic_core import to_json

from infra.failure import Failure
from infra.stores import Store
from model.counted import counted
from model.errors import InputError
from pipeline.cli.groups import grouped
from pipeline.cli.learning import Checkpoint
from pipeline.cli.options import Json, Photos, StoreUrl, given
from pipeline.cli.runs import run_flow, shown
from pipeline.parameters import default_store
from pipeline.run_record import Outcome

if TYPE_CHECKING:
    from pipeline.reproduce import Reproduction

app = typer.Typer()


@app.command(short_help="Make a checkpoint again, to the same weights.")
@grouped
def reproduce(
    checkpoint: Checkpoint,
    photos: Photos,
    check: Annotated[
        bool, typer.Option("--check", help="Only compare what made it with what is here.")
    ] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Also on other hardware, where weights may differ.")
    ] = False,
    store: StoreUrl = "",
    json: Json = False,
) -> None:
    """Say what made a checkpoint, compare it with what is here, and train it again.

    Where code, libraries, recipe or archives are others it refuses, and names them. Otherwise it
    trains, here, and ends with the same weights digest, or fails with both. How the archives were
    read stands in the record of the run; options such as --archive count before it.

    Example: voc-train reproduce checkpoint.pt --check
    """
    from pipeline.console import Terminal
    from pipeline.reproduce import must_have_come_out, plan
    from pipeline.tables import print_comparison

    where = Store.open(store or default_store())
    with Terminal() as terminal:
        planned = plan(checkpoint, where, _typed(photos), [terminal])
    if not json:
        print_comparison(planned.compared)
    if check:
        _end_check(planned, anyway=anyway, json=json)
        return
    parameters = planned.must_be_the_same(anyway=anyway)
    with shown() as training:
        outcome = run_flow(parameters, training)
    assert isinstance(outcome, Outcome), "only a run that promotes looks whether anything changed"
    done = must_have_come_out(planned, outcome, where)
    if json:
        print(done.model_dump_json())
    else:
        print(f"\nThe same weights digest, {done.weights_digest}, at step {done.step}.")


@app.command(name="lineage", short_help="Verify where a checkpoint comes from.")
def lineage_of(checkpoint: Checkpoint, store: StoreUrl = "", json: Json = False) -> None:
    """Show where a checkpoint comes from: archive, dataset, run, checkpoint, champion.

    All that the store still has of them is verified: every byte is hashed, and every sample
    decoded. What does not fit is named, and the exit code is 1; what is missing is said.
    """
    from pipeline.console import Terminal
    from pipeline.lineage import lineage
    from pipeline.run import staged
    from pipeline.tables import print_lineage

    where = Store.open(store or default_store())
    with Terminal() as terminal, staged("verify", [terminal]) as stage:
        found = lineage(checkpoint, where, stage.report)
        verified, missing = (len(found.found(state)) for state in ("verified", "missing"))
        stage.summary = f"{counted(verified, 'proof')} verified, {missing} not in the store"
    if not json:
        print_lineage(found)
        found.must_hold()
        return
    cause, message = None, ""
    try:
        found.must_hold()
    except Failure as failure:
        cause, message = failure.cause, str(failure)
    print(to_json({**dict(found), "cause": cause, "message": message}).decode())
    if cause:
        raise typer.Exit(1)


def _typed(photos: Photos) -> dict[str, Any]:
    """What was said of the archives; what was not is as the run's record has it."""
    said = given(**photos.as_parameters(archives_needed=False))
    return {name: value for name, value in said.items() if value}


def _end_check(planned: "Reproduction", *, anyway: bool, json: bool) -> None:
    """Say whether it could be made again; exit 2 where it would be refused."""
    refused: InputError | None = None
    try:
        planned.must_be_the_same(anyway=anyway)
    except InputError as error:
        refused = error
    if json:
        file = planned.file
        said = {
            "checkpoint": file.path,
            "run_id": file.description.run_id,
            "step": file.description.step,
            "weights_digest": file.weights_digest,
            "commit": planned.commit,
            "compared": planned.compared,
            "refused": str(refused) if refused else None,
        }
        print(to_json(said).decode())
        if refused:
            raise typer.Exit(2)
    elif refused:
        raise refused
    else:
        print("\nCompared only: it can be made again here. Nothing was trained.")
