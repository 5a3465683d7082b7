"""What Prefect does every ten minutes or all the time: the flow `reaper`, and its automation."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from infra.clock import Clock
from infra.failure import Cause, Failure
from infra.linode import Linode
from infra.ownership import label, tags
from infra.provider import VolumeOrder
from infra.reaper_report import ReaperReport
from infra.simulator import Simulator
from infra.stores import Store
from pipeline.reaping import reaper
from servers.prefect import PrefectServer
from servers.receiver import Receiver

_REPOSITORY = Path(__file__).parents[3]
_RUN = "261121-reap1"
_ARTIFACTS = "artifacts/filter"


@pytest.fixture
def simulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    """An account with something of somebody else's; machines are states alone."""
    with Simulator(tmp_path / "linode", clock=Clock.fast(600), machines=False) as simulator:
        simulator.add_foreign("volume", "somebody-elses", ["not-ours"])
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        yield simulator
        assert simulator.touched == []


@pytest.fixture
def look(prefect: PrefectServer, store: Store) -> Iterator[Any]:
    """The flow, once, as a deployment would run it; a minute later it would look again."""
    with temporary_settings({PREFECT_API_URL: prefect.api}):
        yield lambda: reaper.with_options(retries=0)(store.url)


def rent_volume(simulator: Simulator, *, hours: float) -> None:
    until = simulator.clock.now() + timedelta(hours=hours)
    provider = Linode(simulator.token, simulator.url, clock=simulator.clock)
    provider.create(VolumeOrder(label(_RUN, "v"), tags(_RUN, until), "us-ord", 100))


def tables(prefect: PrefectServer) -> list[list[dict[str, Any]]]:
    """What the reaper has shown in Prefect, first to last."""
    found = prefect.post(_ARTIFACTS, artifacts={"key": {"any_": ["voc-train-reaped"]}})
    return [json.loads(one["data"]) for one in sorted(found, key=lambda one: one["created"])]


def latest_state(prefect: PrefectServer) -> dict[str, Any]:
    (flow_run,) = prefect.post(
        "flow_runs/filter", flows={"name": {"any_": ["reaper"]}}, sort="START_TIME_DESC", limit=1
    )
    return dict(flow_run["state"])


def test_what_is_past_its_deadline_is_deleted_and_shown(
    simulator: Simulator, store: Store, prefect: PrefectServer, look: Any
) -> None:
    before = len(tables(prefect))
    look()
    assert len(tables(prefect)) == before, "nothing to show"

    rent_volume(simulator, hours=-1)
    look()
    assert simulator.left() == []
    (row,) = tables(prefect)[-1]
    assert (row["what"], row["label"], row["state"]) == ("volume", label(_RUN, "v"), "gone")
    report = store.read("reaper.json", ReaperReport)
    assert report
    assert report.deletes


def test_what_is_not_past_its_deadline_stays_and_is_no_failure(
    simulator: Simulator, look: Any
) -> None:
    rent_volume(simulator, hours=500)
    look()
    assert [thing.label for thing in simulator.left()] == [label(_RUN, "v")]


def test_it_fails_with_what_lingers_and_tells_of_it_the_second_time(
    simulator: Simulator, prefect: PrefectServer, look: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.faults.add("delete_fails", path="/volumes/*")
    rent_volume(simulator, hours=-1)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Receiver() as receiver:
        monkeypatch.setenv("VOC_TRAIN_NOTIFY", receiver.url)
        with pytest.raises(Failure):
            look()
        simulator.clock.sleep(60)
        with pytest.raises(Failure, match=label(_RUN, "v")) as caught:
            look()
        assert [title.split(":")[0] for title in receiver.titles] == ["LEAKED"]
    assert caught.value.cause is Cause.LEAKED
    state = latest_state(prefect)
    assert state["type"] == "FAILED"
    assert label(_RUN, "v") in state["message"]


def test_it_fails_with_what_could_not_be_looked_at(
    simulator: Simulator, prefect: PrefectServer, look: Any
) -> None:
    simulator.faults.add("missing_scope", path="/linode/instances", scope="linodes*")
    with pytest.raises(Failure, match="Could not look after every instance"):
        look()
    assert latest_state(prefect)["type"] == "FAILED"


def heartbeat(flow_run: str, flow: str) -> dict[str, Any]:
    """What the process of a flow run says every three minutes."""
    return {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "prefect.flow-run.heartbeat",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{flow_run}"},
        "related": [
            {
                "prefect.resource.id": f"prefect.flow.{uuid4()}",
                "prefect.resource.role": "flow",
                "prefect.resource.name": flow,
            }
        ],
    }


@pytest.fixture
def automation(prefect: PrefectServer, tmp_path: Path) -> Iterator[None]:
    """As it is committed, but for how long silence is."""
    text = (_REPOSITORY / "automations.yaml").read_text()
    assert "within: 720" in text
    (tmp_path / "automations.yaml").write_text(text.replace("within: 720", "within: 15"))
    prefect.run("automation", "create", "--from-file", str(tmp_path / "automations.yaml"))
    yield
    for one in prefect.post("automations/filter"):
        prefect.delete(f"automations/{one['id']}")


def test_a_flow_run_that_falls_silent_has_crashed_and_no_other(
    prefect: PrefectServer, automation: None
) -> None:
    def running(flow: str) -> str:
        flow_id = prefect.post("flows/", name=flow)["id"]
        return str(prefect.post("flow_runs/", flow_id=flow_id, state={"type": "RUNNING"})["id"])

    def state(flow_run: str) -> str:
        return str(prefect.get(f"flow_runs/{flow_run}")["state"]["type"])

    silent, beating, another = running("voc-train"), running("voc-train"), running("another")
    prefect.send_events(heartbeat(silent, "voc-train"), heartbeat(another, "another"))

    def silent_has_crashed() -> bool:
        prefect.send_events(heartbeat(beating, "voc-train"))
        return state(silent) == "CRASHED"

    prefect.wait("the end of the silent one", silent_has_crashed)
    assert state(beating) == "RUNNING"
    assert state(another) == "RUNNING"
