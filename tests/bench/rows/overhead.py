"""What the flow costs beside the steps' own work: against Prefect's hello-world flow."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pairs import Row
from pipeline.sample_archive import SAMPLE_CLASSES, write_sample_archive
from servers.prefect import PrefectServer


def rows(folder: Path) -> Iterator[Row]:
    """With a server that runs already, and as many tasks."""
    archive = folder / "overhead.tar"
    write_sample_archive(archive, train=8, val=2, unlabelled=0)
    (folder / "prefect").mkdir()
    with PrefectServer(folder / "prefect") as server:
        os.environ.update(server.environment, VOC_TRAIN_HOME=str(folder / "home"))
        from prefect import flow, task

        from pipeline import flow as story
        from pipeline.parameters import Parameters
        from pipeline.run_record import Outcome

        parameters = Parameters(
            archives=(str(archive),),
            classes=SAMPLE_CLASSES,
            recipe="tiny",
            overrides={"width": 4, "epochs": 1, "min_miou": None},
            store=str(folder / "overhead"),
            wandb="disabled",
        )

        @task
        def hello(number: int) -> None:
            print("hello", number)

        @flow
        def hellos(number: int) -> None:
            for one in range(number):
                hello(one)

        reporting: list[float] = []  # the one step that is no stage, since it shows them
        write_report = story.write_report

        def timed(*arguments: Any) -> str:
            began = time.perf_counter()
            path = write_report(*arguments)
            reporting.append(time.perf_counter() - began)
            return path

        def ours() -> float:
            began = time.perf_counter()
            outcome = story.voc_train(parameters)
            wall = time.perf_counter() - began
            assert isinstance(outcome, Outcome)
            return wall - sum(outcome.seconds.values()) - reporting[-1]

        with patch.object(story, "write_report", timed):
            outcome = story.voc_train(parameters)
            assert isinstance(outcome, Outcome)
            number = len(outcome.seconds)
            yield Row(
                "flow: wall time less the steps' own", "a hello-world flow of as many tasks",
                "of the time", 1.5, ours, lambda: hellos(number),
            )  # fmt: skip
