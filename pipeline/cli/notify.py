"""The command that tries whether messages arrive."""

from typing import Annotated

import typer

from infra.failure import Cause, Failure
from infra.notifications import VARIABLE, deliver, wanted


def notify(text: Annotated[str, typer.Argument(help="What to say.")]) -> None:
    """Send a message to whoever VOC_TRAIN_NOTIFY names, as the end of a run does."""
    if not wanted():
        raise Failure(
            Cause.BAD_INPUT,
            f"{VARIABLE} is not set: put one or several of Apprise's URLs there, with spaces "
            "between them, like mailtos://USER:PASSWORD@HOST.",
        )
    delivery = deliver("voc-train", text)
    if delivery.said:
        raise Failure(Cause.BAD_INPUT, f"In {VARIABLE}, {delivery.said}.")
    print(f"{', '.join(delivery.took)} took it.")
