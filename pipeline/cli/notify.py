"""The command that tries whether messages arrive."""

from typing import Annotated

import typer
from pydantic_core import to_json

from infra.failure import Cause, Failure
from pipeline.cli.options import Json


def notify(
    text: Annotated[str, typer.Argument(help="What to say.")], *, json: Json = False
) -> None:
    """Send a message to whoever VOC_TRAIN_NOTIFY names, as the end of a run does.

    Exits with 1 where somebody did not take it.
    """
    from infra.notifications import VARIABLE, deliver, wanted

    if not wanted():
        raise Failure(
            Cause.BAD_INPUT,
            f"{VARIABLE} is not set: put one or several of Apprise's URLs there, with spaces "
            "between them, like mailtos://USER:PASSWORD@HOST.",
        )
    delivery = deliver("voc-train", text)
    took = f"{', '.join(delivery.took)} took it."
    if delivery.said:
        took = f" {took}" if delivery.took else ""
        cure = "Mend the URL, or see whether the service is there."
        raise Failure(Cause.PROVIDER, f"In {VARIABLE}, {delivery.said}.{took} {cure}")
    if json:
        print(to_json({"took": delivery.took}).decode())
    else:
        print(took)
