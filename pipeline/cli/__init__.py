"""The command line.

Exit 0: done. 1: failed. 2: wrong input. 130: interrupted. What a command has to say goes to
standard output, everything on the way to standard error.
"""

import math
import signal
import sys
import time
from types import FrameType
from typing import Annotated, NoReturn

import typer
from pydantic_core import to_json

from infra.failure import Failure
from model.errors import InputError
from pipeline.cli import champions, learning, provenance, rental, runs, stored, sweeps, wandb_sync
from pipeline.cli.notify import notify
from pipeline.cli.options import this_run
from pipeline.cli.prune import prune
from pipeline.cli.setup import setup

app = typer.Typer(
    help="Train a segmentation net on an archive of photos with masks.",
    epilog="--debug, anywhere, shows where an error comes from.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib import metadata

        print(f"voc-train {metadata.version('voc-train')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Say which it is."),
    ] = False,
) -> None:
    pass  # what is said of the whole program stands above


app.add_typer(runs.app, name="run")
app.command(short_help="Try the whole rental here, against a simulated Linode.")(runs.rehearse)
app.command(short_help="Go on with a run that was interrupted.")(runs.resume)
app.command(short_help="Compare settings: train with each of them, one after the other.")(
    sweeps.sweep
)
app.add_typer(stored.app)
app.add_typer(champions.app)
app.add_typer(learning.app)
app.add_typer(provenance.app)
app.add_typer(rental.app)
app.add_typer(wandb_sync.app)
app.command(short_help="Prepare a Prefect server: deployments, schedules, queue.")(setup)
app.command(short_help="Show or delete what the store needs no more.")(prune)
app.command(short_help="Send a message to whoever VOC_TRAIN_NOTIFY names.")(notify)

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_SUCCESSION = 1.0  # seconds


class _Interrupts:
    """A service manager's stop and a closed terminal are a person's Ctrl-C.

    What runs is then stopped, and what is rented deleted, before we go. Signals in quick succession
    count as one: the second must not come before that has begun.
    """

    def __init__(self) -> None:
        self._last = -math.inf

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if now > self._last + _SUCCESSION:
            self._last = now
            raise KeyboardInterrupt


def main() -> NoReturn:
    """Run the command line; every expected failure is a sentence and an exit code."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    interrupts = _Interrupts()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # which is nohup's wish
            signal.signal(number, interrupts)
    try:
        _must_be_text(arguments)
        if arguments in ([], ["run"]):
            arguments.append("--help")
        code = app(arguments, prog_name="voc-train", standalone_mode=False)
        if code == _INTERRUPTED:  # typer's answer to Ctrl-C, without a word
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except (KeyboardInterrupt, typer.Abort):
        _say_as_json(KeyboardInterrupt(), arguments)
        _leave("Interrupted; what was running has been stopped.", _INTERRUPTED, debug)
    except typer.TyperException as error:
        said = error.format_message() if isinstance(error, typer.BadParameter) else str(error)
        said = f"{said} See" if said.endswith("?") else f"{said.rstrip('.')}; see"
        _say_as_json(InputError(f"{said} --help."), arguments)
        _leave(f"{said} --help.", 2, debug)
    except InputError as error:
        _say_as_json(error, arguments)
        _leave(str(error), 2, debug)
    except Failure as failure:
        _say_as_json(failure, arguments)
        _leave(str(failure), failure.exit_code, debug)
    except Exception as error:
        _say_as_json(error, arguments)
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        _leave(f"Unexpected: {said} (--debug shows where)", 1, debug)


def _say_as_json(error: BaseException, arguments: list[str]) -> None:
    """Whoever asked for an object on standard output gets one for a failure, too."""
    if "--json" in arguments:
        from pipeline.run import explained

        cause, message = explained(error)
        failed = {"run_id": this_run.get(), "cause": cause, "message": message}
        print(to_json(failed).decode())


def _must_be_text(arguments: list[str]) -> None:
    for argument in arguments:
        if not argument.isprintable():
            raise InputError(f"{argument!r} is not text; rename the file, or mend the argument.")


def _leave(message: str, code: int, debug: bool) -> NoReturn:
    if debug:
        import traceback

        traceback.print_exc()
    from pipeline.console import harmless

    print(f"voc-train: {harmless(message)}", file=sys.stderr)
    sys.exit(code)
