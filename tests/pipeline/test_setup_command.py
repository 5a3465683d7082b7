"""`voc-train setup` on a real server, and what a worker makes of a schedule that it registered."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from infra.failure import Cause, Failure
from pipeline.deployments import read_deployments
from pipeline.server_setup import set_up
from servers.prefect import PrefectServer

_SUPPORT = Path(__file__).parents[1] / "support"
_OFTEN = """
deployments:
  - name: often
    entrypoint: quick_flow.quick
    parameters: {{folder: {folder!r}}}
    schedules: [{{slug: often, interval: 10}}]
    work_pool: {{name: quick}}
"""
_AUTOMATION = "voc-train-silent"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """One on which nobody has made anything."""
    with PrefectServer(tmp_path_factory.mktemp("server"), bare=True) as server:
        path = [str(_SUPPORT), server.environment.get("PYTHONPATH", "")]
        server.environment["PYTHONPATH"] = os.pathsep.join(path)
        yield server


def parts(server: PrefectServer, *options: str) -> dict[str, dict[str, Any]]:
    """What `setup` says of each thing, by its name."""
    said = json.loads(server.set_up("--json", *options).stdout)["parts"]
    return {part["name"]: part for part in said}


def done(server: PrefectServer, *options: str) -> dict[str, set[str]]:
    """What `setup` says it did: the names."""
    found: dict[str, set[str]] = {}
    for name, part in parts(server, *options).items():
        found.setdefault(part["did"], set()).add(name)
    return found


def deployment(server: PrefectServer, name: str) -> dict[str, Any]:
    return dict(server.get(f"deployments/name/{name}"))


def test_what_is_made_the_first_time_is_there_the_second_time(server: PrefectServer) -> None:
    names = {
        *("voc-train", "voc-train-rehearsal", "voc-train-rental", _AUTOMATION),
        *("voc-train/local", "voc-train/rehearsal", "voc-train/linode", "voc-train/nightly"),
        "reaper/reaper",
    }
    assert done(server) == {"made": names}
    assert server.get("v2/concurrency_limits/voc-train-rental")["limit"] == 1
    pool = server.get("work_pools/voc-train")
    assert (pool["type"], pool["concurrency_limit"]) == ("process", None)  # the reaper never waits
    before = deployment(server, "voc-train/nightly")
    (schedule,) = before["schedules"]
    assert not schedule["active"]  # nothing is rented each night before somebody says so
    assert schedule["schedule"]["cron"] == "0 2 * * *"
    assert schedule["schedule"]["timezone"] == "Etc/UTC"
    (looks,) = deployment(server, "reaper/reaper")["schedules"]
    assert (looks["schedule"]["cron"], looks["active"]) == ("*/10 * * * *", True)

    assert done(server) == {"was there": names}
    assert deployment(server, "voc-train/nightly")["schedules"] == before["schedules"]
    (watch,) = server.post("automations/filter")
    older = {"trigger": watch["trigger"] | {"within": 60.0}, "enabled": False}
    kept = {key: watch[key] for key in ("name", "description", "actions")}
    server.put(f"automations/{watch['id']}", **kept, **older)
    assert done(server) == {"was there": names - {_AUTOMATION}, "changed": {_AUTOMATION}}
    (now,) = server.post("automations/filter")
    assert now["trigger"]["within"] == watch["trigger"]["within"]
    assert not now["enabled"]


def test_options_change_what_they_name_and_all_else_stays(
    server: PrefectServer, tmp_path: Path
) -> None:
    server.set_up()
    server.patch("v2/concurrency_limits/voc-train-rental", limit=2)
    archive = tmp_path / "photos.tar"
    options = ("--archive", str(archive), "--budget", "2", "--set", "epochs=3")
    time = ("--cron", "30 3 * * 1-5", "--timezone", "Europe/Berlin")
    first = parts(server, *options, *time, "--nightly")
    changed = {name for name, part in first.items() if part["did"] == "changed"}
    assert changed == {"voc-train/local", "voc-train/linode", "voc-train/nightly"}
    assert {
        "rental.budget: 5 → 2.0",
        "overrides.epochs: – → 3",
        "schedule nightly: 0 2 * * * Etc/UTC, off → 30 3 * * 1-5 Europe/Berlin, on",
    } < set(first["voc-train/nightly"]["changes"])
    assert first["voc-train/nightly"]["next"]
    assert server.get("v2/concurrency_limits/voc-train-rental")["limit"] == 2
    (sample,) = deployment(server, "voc-train/rehearsal")["parameters"]["parameters"]["archives"]
    assert Path(sample).is_file()

    before = deployment(server, "voc-train/nightly")
    assert before["parameters"]["parameters"]["machine"] == "linode"
    second = parts(server, "--set", "lr=1e-3")
    assert second["voc-train/nightly"]["changes"] == ["overrides.lr: – → 1e-3"]
    assert second["voc-train/linode"]["changes"] == ["overrides.lr: – → 1e-3"]
    after = deployment(server, "voc-train/nightly")
    overrides = {"overrides": {"epochs": "3", "lr": "1e-3"}}
    kept = before["parameters"]["parameters"]
    assert after["parameters"]["parameters"] == kept | overrides
    assert [(one["schedule"], one["active"]) for one in after["schedules"]] == [
        (one["schedule"], True) for one in before["schedules"]
    ]
    assert {part["did"] for part in parts(server).values()} == {"was there"}


@pytest.mark.parametrize("whole", [False, True], ids=["its schedule", "all of it"])
def test_what_a_person_has_paused_stays_so_until_it_is_switched_on(
    server: PrefectServer, whole: bool
) -> None:
    server.set_up("--nightly", "--timezone", "Etc/UTC")
    if whole:
        server.patch(f"deployments/{deployment(server, 'voc-train/nightly')['id']}", paused=True)
    else:
        server.schedule("voc-train/nightly", active=False)
    still = server.set_up("--timezone", "Asia/Tokyo")
    assert "deployment voc-train/nightly, paused\n" in still.stdout
    assert "`voc-train setup --nightly`" in still.stdout
    assert parts(server, "--nightly")["voc-train/nightly"]["next"]
    now = deployment(server, "voc-train/nightly")
    assert not now["paused"]
    assert now["schedules"][0]["active"]


def test_an_option_that_cannot_be_is_named_and_nothing_is_changed(server: PrefectServer) -> None:
    server.set_up()
    before = deployment(server, "voc-train/nightly")
    for options, said in (
        (("--cron", "61 * * * *"), "'61 * * * *' is no schedule of cron's"),
        (("--timezone", "CEST"), "there is no timezone 'CEST'"),
        (("--budget", "0"), "--budget: must be more than 0"),
        (("--recipe", "tini"), "no recipe 'tini'"),
        (("--classes", "cat"), "--classes: needs at least 2"),
    ):
        refused = server.set_up(*options, check=False)
        assert refused.returncode == 2
        assert said in refused.stderr
        assert "Deployment" not in refused.stderr
    assert deployment(server, "voc-train/nightly")["updated"] == before["updated"]


def test_a_schedule_fires_until_it_is_paused_and_again_when_resumed(
    server: PrefectServer, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    described = tmp_path / "often.yaml"
    described.write_text(_OFTEN.format(folder=str(runs)))
    server.set_up("--file", str(described))
    at_once = {"PREFECT_WORKER_PREFETCH_SECONDS": "1"}  # none is begun ahead of its time
    server.start_worker(at_once, pool="quick")
    server.wait("the second run of the schedule", lambda: len(list(runs.iterdir())) >= 2)

    server.schedule("quick/often", active=False)
    server.wait("the last run", lambda: not unfinished(server))
    finished = set(runs.iterdir())
    often = deployment(server, "quick/often")["id"]  # what is paused is the schedule alone
    typed = {"folder": str(runs), "word": "typed"}
    server.post(f"deployments/{often}/create_flow_run", parameters=typed)
    server.wait("the run by hand", lambda: len(list(runs.iterdir())) > len(finished))
    server.wait("its end", lambda: not unfinished(server))
    (by_hand,) = set(runs.iterdir()) - finished
    assert by_hand.read_text() == "typed"
    assert {one.read_text() for one in finished} == {"scheduled"}

    server.schedule("quick/often", active=True)
    server.wait("a run after that", lambda: len(list(runs.iterdir())) > len(finished) + 1)


def unfinished(server: PrefectServer) -> list[Any]:
    states = ["SCHEDULED", "PENDING", "RUNNING"]
    return list(
        server.post(
            "flow_runs/filter",
            flows={"name": {"any_": ["quick"]}},
            flow_runs={"state": {"type": {"any_": states}}},
        )
    )


def test_a_pool_for_something_else_is_left_alone(server: PrefectServer, tmp_path: Path) -> None:
    server.post("work_pools/", name="containers", type="docker")
    described = tmp_path / "containers.yaml"
    described.write_text(_OFTEN.format(folder="x").replace("name: quick", "name: containers"))
    with (
        temporary_settings({PREFECT_API_URL: server.api}),
        pytest.raises(Failure, match="containers is of type docker") as caught,
    ):
        set_up(read_deployments(described))
    assert caught.value.cause is Cause.BAD_INPUT


def test_without_a_server_it_says_how_to_get_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    silent = f"http://127.0.0.1:{port}/api"
    for api, said in ((None, "prefect server start"), (silent, f"answers at {silent}")):
        with temporary_settings({PREFECT_API_URL: api}), pytest.raises(Failure) as caught:
            set_up([])
        assert caught.value.cause is Cause.BAD_INPUT
        assert said in str(caught.value)


def test_what_is_wrong_is_refused_before_anything_is_registered(
    server: PrefectServer, tmp_path: Path
) -> None:
    described = tmp_path / "never.yaml"
    described.write_text(_OFTEN.format(folder="x").replace("name: quick", "name: never"))
    fails = _OFTEN.format(folder="x").replace("often", "bad").replace("interval: 10", "interval: 0")
    described.write_text(described.read_text() + fails.partition("deployments:\n")[2])
    refused = server.set_up("--file", str(described), check=False)
    assert refused.returncode == 2
    assert "Deployment bad of" in refused.stderr
    assert not [one for one in server.post("work_pools/filter") if one["name"] == "never"]


def test_what_the_server_has_and_nobody_can_run_is_named_with_the_cure(
    server: PrefectServer,
) -> None:
    server.set_up()
    linode = deployment(server, "voc-train/linode")
    forgotten = linode["parameters"]["parameters"] | {"recipe": "forgotten"}
    server.patch(f"deployments/{linode['id']}", parameters={"parameters": forgotten})
    refused = server.set_up(check=False)
    assert refused.returncode == 2
    assert "Deployment linode of the Prefect server: " in refused.stderr
    assert "no recipe 'forgotten'" in refused.stderr
    server.run("deployment", "delete", "voc-train/linode")
    assert "made       deployment voc-train/linode" in server.set_up().stdout


def test_a_schedule_that_somebody_added_stays_as_it_is_until_the_nights_are_stopped(
    server: PrefectServer,
) -> None:
    server.set_up("--nightly", "--cron", "0 2 * * *", "--timezone", "Etc/UTC")
    nightly = deployment(server, "voc-train/nightly")
    monthly = {
        "rrule": "DTSTART:20260101T000000\nFREQ=MONTHLY;BYMONTHDAY=1",
        "timezone": "Asia/Tokyo",
    }
    hours = {"interval": 3600.0, "anchor_date": "2026-03-01T00:20:00Z", "timezone": "Etc/UTC"}
    over = {"rrule": "DTSTART:20200101T000000\nRRULE:FREQ=DAILY;COUNT=1", "timezone": "UTC"}
    typed = {"parameters": nightly["parameters"] | {"resume": "a-run"}}
    (known,) = nightly["schedules"]
    where = f"deployments/{nightly['id']}/schedules"
    server.patch(f"{where}/{known['id']}", schedule=monthly)
    added_there = [{"schedule": hours, **typed}, {"schedule": over, "slug": "once"}]
    httpx.post(f"{server.api}/{where}", json=added_there, timeout=30).raise_for_status()

    def schedules() -> list[dict[str, Any]]:
        names = ("slug", "schedule", "active", "parameters")
        there = deployment(server, "voc-train/nightly")["schedules"]
        return sorted(({name: one[name] for name in names} for one in there), key=str)

    added = schedules()
    assert len(added) == 3
    said = parts(server, "--set", "batch_size=3")["voc-train/nightly"]
    assert (said["did"], said["changes"]) == ("changed", ["overrides.batch_size: – → 3"])
    assert said["next"]
    assert schedules() == added
    assert parts(server)["voc-train/nightly"]["did"] == "was there"

    moved = parts(server, "--cron", "0 4 * * *")["voc-train/nightly"]["changes"]
    assert moved == [
        "schedule nightly: DTSTART:20260101T000000 FREQ=MONTHLY;BYMONTHDAY=1 Asia/Tokyo, on → "
        "0 4 * * * Asia/Tokyo, on"
    ]
    assert [one for one in schedules() if one["slug"] != "nightly"] == [
        one for one in added if one["slug"] != "nightly"
    ]
    assert parts(server, "--no-nightly")["voc-train/nightly"]["paused"]
    assert not [one for one in schedules() if one["active"]]
    server.set_up("--nightly")
    assert [one["slug"] for one in schedules() if one["active"]] == ["nightly"]
