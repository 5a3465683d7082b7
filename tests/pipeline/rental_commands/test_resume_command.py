"""What `voc-train resume` asks before it goes on with a rented run."""

import subprocess
from collections.abc import Callable

from commands import home_store
from infra.protocol import now
from infra.simulator import Simulator
from infra.stores import Store
from pipeline.parameters import Parameters
from pipeline.run_record import RunRecord, recorded_run

RUN = "261121-4k2ra"


def _recorded_run() -> Store:
    parameters = Parameters.model_validate({"archives": ("photos.tar",), "machine": "linode"})
    record = RunRecord(
        run_id=RUN, state="running", started=now(), parameters=parameters.model_dump(mode="json")
    )
    store = Store.open(str(home_store()))
    store.write(f"runs/{RUN}/run.json", record)
    return store


def test_who_declines_hears_that_what_is_rented_stays(
    simulator: Simulator, start: Callable[..., subprocess.Popen[str]]
) -> None:
    _recorded_run()
    process = start("resume", RUN)
    _, said = process.communicate("n\n", timeout=120)
    assert process.returncode == 1, said
    assert "Where its machine is at work, that is followed and nothing is rented" in said
    assert "No reaper that deletes has looked" in said  # it is wanted only to rent another
    assert "nothing was created" not in said
    assert f"voc-train reap --run {RUN}" in said
    assert not simulator.left()


def test_what_is_refused_changes_nothing_of_what_is_known_of_the_run(
    simulator: Simulator, start: Callable[..., subprocess.Popen[str]]
) -> None:
    store = _recorded_run()
    process = start("resume", RUN, "--yes")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2, said
    assert "photos.tar" in said
    assert recorded_run(store, RUN).state == "running"
