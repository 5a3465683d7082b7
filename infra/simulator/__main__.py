"""The simulator on its own, for any client: `python -m infra.simulator --port 8080`."""

import os
import shlex
import signal
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.clock import Clock
from infra.failure import Cause, Failure
from infra.simulator import Simulator
from infra.simulator.faults import Effect

if TYPE_CHECKING:
    from infra.simulator.object_storage import ObjectStorage

_HELP = f"""A Linode that lives on this computer: its API, machines that really boot, and a bill.

It prints what a client needs in its environment, then one line for each request and change of
state. Ctrl-C ends it and everything it started, and prints the bill.

What goes wrong on request: POST /faults with {{"effect": EFFECT}}, limited by "method", "path",
"label", "plan", "region" or "scope" (* and ? as in file names), by "times" and "skip", and with
"seconds" or "status" where that means something; GET shows what was asked for, DELETE ends it.
An EFFECT is one of: {", ".join(Effect)}.
"""


def main(
    port: Annotated[int, typer.Option(help="Of the API; 0 takes a free one.")] = 0,
    ssh_port: Annotated[int, typer.Option(help="Of the machines; 0 takes a free one.")] = 0,
    speed: Annotated[float, typer.Option(help="How many of its seconds pass in a real one.")] = 1.0,
    folder: Annotated[Path | None, typer.Option(help="For machines and Volumes.")] = None,
    spec: Annotated[Path | None, typer.Option(help="Linode's OpenAPI file to check with.")] = None,
    share: Annotated[
        list[Path] | None, typer.Option(metavar="FOLDER", help="Machines see it, too. Repeatable.")
    ] = None,
    s3: Annotated[
        str, typer.Option(help="A Ceph RGW: its URL. Its admin's key is in AWS_ACCESS_KEY_ID.")
    ] = "",
    s3_ca: Annotated[str, typer.Option(help="The CA file of that server.")] = "",
    machines: Annotated[bool, typer.Option(help="Whether instances are more than state.")] = True,
    rate_limits: Annotated[bool, typer.Option(help="Enforce Linode's limits.")] = False,
) -> None:
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="simulator-")))
        clock = Clock.fast(speed) if speed != 1 else Clock()
        try:
            simulator = Simulator(
                folder,
                clock=clock,
                port=port,
                ssh_port=ssh_port,
                machines=machines,
                shares=share or (),
                spec=spec,
                object_storage=_gateway(s3, s3_ca) if s3 else None,
                rate_limits=rate_limits,
                tell=lambda text: print(f"{clock.now():%H:%M:%S} {text}", flush=True),
            )
            with simulator:
                for name, value in simulator.environment().items():
                    print(f"export {name}={shlex.quote(value)}", flush=True)
                ended.wait()
        except Failure as failure:
            typer.echo(str(failure), err=True)
            raise typer.Exit(failure.exit_code) from failure
        _print_bill(simulator)


def _gateway(url: str, ca: str) -> "ObjectStorage":
    from infra.simulator.object_storage import RadosGateway  # boto3 takes a second

    try:
        key, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    except KeyError as error:
        raise Failure(
            Cause.BAD_INPUT, f"--s3 needs the server's admin key in the environment: set {error}."
        ) from error
    return RadosGateway(url, key, secret, ca or None)


def _print_bill(simulator: Simulator) -> None:
    lines = simulator.bill()
    for line in lines:
        until = f"{line.gone:%H:%M:%S}" if line.gone else "still there"
        print(
            f"{line.kind:10} {line.label:34} {line.created:%H:%M:%S} - {until:11} "
            f"{line.hours:4} h  ${line.dollars:.4f}"
        )
    print(f"{sum(line.dollars for line in lines):>75.4f} dollars", flush=True)
    for thing in simulator.left():
        print(f"left: {thing.kind} {thing.id} ({thing.label})", flush=True)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(help=_HELP)(main)
    app()
