"""What `voc-train resume` asks before it goes on with a rented run."""

import subprocess
from collections.abc import Callable

from commands import home_store
from infra.protocol import now
from infra.simulator import Simulator
from infra.stores import Store
from pipeline.parameters import Parameters
from pipeline.run import RunRecord

RUN = "261121-4k2ra"


def test_who_declines_hears_that_what_is_rented_stays(
    simulator: Simulator, start: Callable[..., subprocess.Popen[str]]
) -> None:
    parameters = Parameters.model_validate({"archives": ("photos.tar",), "machine": "linode"})
    record = RunRecord(
        run_id=RUN, state="running", started=now(), parameters=parameters.model_dump(mode="json")
    )
    Store.open(str(home_store())).write(f"runs/{RUN}/run.json", record)
    process = start("resume", RUN)
    _, said = process.communicate("n\n", timeout=120)
    assert process.returncode == 1, said
    assert "Where its machine is at work, that is followed and nothing is rented" in said
    assert "No reaper that deletes has looked" in said  # it is wanted only to rent another
    assert "nothing was created" not in said
    assert f"voc-train reap --run {RUN}" in said
    assert not simulator.left()
