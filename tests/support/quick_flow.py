"""A flow that is done at once, for what a schedule and a worker do with a deployment."""

from pathlib import Path

from prefect import flow, runtime


@flow(name="quick")
def quick(folder: str, word: str = "scheduled") -> None:
    """Leave a file that says how it was started."""
    (Path(folder) / str(runtime.flow_run.id)).write_text(word)
