"""The command line.

Exit 0: done. 1: failed. 2: wrong input. 130: interrupted. What a command has to say goes to
standard output, everything on the way to standard error.
"""

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from pydantic_core import to_json

from infra.failure import Failure
from infra.stores import Store
from model.errors import InputError, first_problem
from model.recipes import RECIPES
from pipeline.parameters import Parameters, default_store, expanded, home

if TYPE_CHECKING:
    from pipeline.console import Terminal

app = typer.Typer(
    help="Train a segmentation net on an archive of photos with masks.",
    epilog="--debug, anywhere, shows where an error comes from.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
run_app = typer.Typer(help="Run the whole flow.", no_args_is_help=True)
app.add_typer(run_app, name="run")

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it

StoreUrl = Annotated[
    str, typer.Option("--store", help="file:///folder or s3://bucket/prefix", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="End with one JSON object on stdout.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps")]
Archives = Annotated[
    list[str],
    typer.Option(
        "--archive",
        metavar="URL",
        help="Path or URL (http, s3) of a VOC-style tar; may end in #sha256=…. Repeatable.",
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(help="Class names by index, with commas. Default: VOC's 21.", show_default=False),
]
MaxSide = Annotated[int | None, typer.Option(help="Shrink photos to this longest side, pixels.")]
SkipMissing = Annotated[
    bool, typer.Option("--skip-missing", help="Leave out listed ids without photo or mask.")
]
Limits = Annotated[
    list[str],
    typer.Option(
        "--limit",
        metavar="KEY=VALUE",
        help="One of train_hours, archive_gb, photo_megapixels, shard_mb. Repeatable.",
    ),
]


@run_app.command("local", short_help="Run it on this computer.")
def run_local(
    archive: Archives = [],  # noqa: B006  # typer's way
    recipe: Annotated[str, typer.Option(help="See `voc-train recipes`.")] = "voc-segmentnet",
    set_: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe's setting. Repeatable."),
    ] = [],  # noqa: B006
    classes: Classes = None,
    max_side: MaxSide = None,
    skip_missing: SkipMissing = False,
    store: StoreUrl = "",
    device: Device = "auto",
    workers: Annotated[int | None, typer.Option(help="Loader processes.")] = None,
    wandb: Annotated[str, typer.Option(help="auto, online, offline or disabled")] = "auto",
    limit: Limits = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Extract, separate, build the dataset, train and fetch the checkpoint, on this computer.

    Example: voc-train run local --archive VOCtrainval_11-May-2012.tar --set epochs=5
    """
    parameters = _parameters(
        archives=archive,
        recipe=recipe,
        overrides=_pairs(set_, "--set"),
        classes=classes,
        max_side=max_side,
        skip_missing=skip_missing,
        store=store,
        device=device,
        workers=workers,
        wandb=wandb,
        limits=_pairs(limit, "--limit"),
    )
    Store.open(parameters.store)  # refused now rather than after Prefect's start
    _prepare_prefect()
    from pipeline.console import Terminal
    from pipeline.progress import listening

    with Terminal() as terminal, _failure_as_json(terminal if json else None):
        terminal.waiting("starting Prefect …")
        from pipeline.temporary_server import prefect_server

        with prefect_server():
            from pipeline.flow import voc_train

            listening.set((terminal,))
            outcome = voc_train(parameters)
    if json:
        print(outcome.model_dump_json())
        return
    from pipeline.tables import print_outcome

    print_outcome(outcome)


@app.command()
def recipes(json: Json = False) -> None:
    """List the recipes and their settings."""
    if json:
        print(to_json(RECIPES).decode())
        return
    from pipeline.tables import print_recipes

    print_recipes(RECIPES.values())


@app.command()
def status(
    run: Annotated[str | None, typer.Argument(help="A run's id; without one, all runs.")] = None,
    store: StoreUrl = "",
    json: Json = False,
) -> None:
    """Show how runs stand: all of a store, or one in detail."""
    from pipeline.status import one_run, print_all, print_one

    where = Store.open(store or default_store())
    if run is None:
        print_all(where, as_json=json)
    else:
        print_one(one_run(where, _run_id(run)), as_json=json)


@app.command()
def fetch(
    run: Annotated[str, typer.Argument(help="A run's id; see `voc-train status`.")],
    store: StoreUrl = "",
    out: Annotated[Path | None, typer.Option(help="Folder for the checkpoint.")] = None,
    json: Json = False,
) -> None:
    """Copy the best verified checkpoint of a run to this computer."""
    from pipeline.stages.fetch_checkpoint import fetch_checkpoint

    folder = out or home() / "checkpoints" / _run_id(run)
    manifest = fetch_checkpoint(_run_id(run), Store.open(store or default_store()), folder)
    path = folder / "checkpoint.pt"
    if json:
        print(to_json({"checkpoint": path, **dict(manifest)}).decode())
        return
    score = "not scored yet" if manifest.miou is None else f"mIoU {manifest.miou:.4f}"
    print(f"{path}\n{score}, step {manifest.step}, sha256 {manifest.sha256}")


@app.command(short_help="Score a checkpoint on the photos of an archive.")
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint.pt")],
    archive: Archives = [],  # noqa: B006
    split: Annotated[str, typer.Option(help="train, val or test")] = "val",
    max_side: MaxSide = None,
    skip_missing: SkipMissing = False,
    store: StoreUrl = "",
    device: Device = "auto",
    limit: Limits = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Score a checkpoint on the photos of an archive, at their own resolution."""
    from pipeline.console import Terminal
    from pipeline.evaluation import evaluate_on_archives
    from pipeline.tables import print_score

    parameters = _parameters(
        archives=archive,
        max_side=max_side,
        skip_missing=skip_missing,
        store=store,
        device=device,
        limits=_pairs(limit, "--limit"),
    )
    with Terminal() as terminal:
        score = evaluate_on_archives(checkpoint, parameters, split, [terminal])
    if json:
        print(score.model_dump_json())
    else:
        print_score(score)


@contextmanager
def _failure_as_json(terminal: "Terminal | None") -> Iterator[None]:
    """With a terminal, whose run it is, end a failure with an object on standard output too."""
    try:
        yield
    except BaseException as error:
        if terminal:
            from pipeline.run import explained

            cause, message = explained(error)
            failed = {"run_id": terminal.run_id, "cause": cause, "message": message}
            print(to_json(failed).decode())
        raise


def _parameters(**values: Any) -> Parameters:
    """The parameters from what was typed; what was not typed keeps its default."""
    from pydantic import ValidationError

    if not values["archives"]:
        raise InputError("Name at least one --archive: a path or URL of a VOC-style tar.")
    given = {key: value for key, value in values.items() if value not in (None, "", {})}
    if not all(url.strip() for url in values["archives"]):
        raise InputError("An --archive is empty; give a path or a URL.")
    given["archives"] = [_absolute(url) for url in values["archives"]]
    if "classes" in given:
        given["classes"] = [name.strip() for name in given["classes"].split(",")]
    try:
        return Parameters.model_validate(given)
    except ValidationError as error:
        where, said = first_problem(error)
        raise InputError(f"{where}: {said}" if where else said) from None


def _absolute(url: str) -> str:
    """A path as the worker must see it, wherever it runs; URLs stay as they are."""
    if "://" in url:
        return url
    path, mark, checksum = url.partition("#sha256=")
    return f"{expanded(path)}{mark}{checksum}"


def _pairs(texts: list[str], option: str) -> dict[str, str]:
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InputError(f"{option} {text!r} is not KEY=VALUE, like {option} epochs=5.")
        pairs[key.strip()] = value.strip()
    return pairs


def _prepare_prefect() -> None:
    """Prefect talks to a log by default; here the terminal shows the run itself."""
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")


def main() -> NoReturn:
    """Run the command line; every expected failure is a sentence and an exit code."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    # A service manager's stop is a person's Ctrl-C: the machine is stopped before we go.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _must_be_text(arguments)
        if arguments in ([], ["run"]):
            arguments.append("--help")
        code = app(arguments, prog_name="voc-train", standalone_mode=False)
        if code == _INTERRUPTED:  # typer's answer to Ctrl-C, without a word
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except (KeyboardInterrupt, typer.Abort):
        _leave("Interrupted; what was running has been stopped.", _INTERRUPTED, debug)
    except typer.TyperException as error:
        said = error.format_message() if isinstance(error, typer.BadParameter) else str(error)
        _leave(f"{said.rstrip('.')}; see --help.", 2, debug)
    except InputError as error:
        _leave(str(error), 2, debug)
    except Failure as failure:
        _leave(str(failure), failure.exit_code, debug)
    except Exception as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        _leave(f"Unexpected: {said} (--debug shows where)", 1, debug)


def _must_be_text(arguments: list[str]) -> None:
    for argument in arguments:
        if not argument.isprintable():
            raise InputError(f"{argument!r} is not text; rename the file, or mend the argument.")


def _run_id(run: str) -> str:
    if not re.fullmatch(r"[\w-]{1,40}", run, re.ASCII):
        raise InputError(
            f"{run!r} is no run's id, which is like 261121-4k2ra; see `voc-train status`."
        )
    return run


def _leave(message: str, code: int, debug: bool) -> NoReturn:
    if debug:
        import traceback

        traceback.print_exc()
    print(f"voc-train: {message}", file=sys.stderr)
    sys.exit(code)
