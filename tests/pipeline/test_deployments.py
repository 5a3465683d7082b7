"""`prefect.yaml` and what is wrong with one, before any server hears of it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from model.errors import InputError
from pipeline.deployments import AUTOMATIONS, DEPLOYMENTS, Deployment, read_deployments

_REPOSITORY = Path(__file__).parents[2]


def deployments() -> dict[str, Deployment]:
    return {one.name: one for one in read_deployments()}


def with_nightly(tmp_path: Path, **changes: Any) -> Path:
    """The file as it comes along, with something else said of `nightly`."""
    described = yaml.safe_load(DEPLOYMENTS.read_text())
    (nightly,) = [one for one in described["deployments"] if one["name"] == "nightly"]
    nightly.update(changes)
    path = tmp_path / "prefect.yaml"
    path.write_text(yaml.safe_dump(described))
    return path


def test_the_files_of_the_repository_are_those_that_are_installed() -> None:
    assert (_REPOSITORY / "prefect.yaml").samefile(DEPLOYMENTS)
    assert (_REPOSITORY / "automations.yaml").samefile(AUTOMATIONS)


def test_whoever_can_rent_for_money_never_takes_a_rehearsal() -> None:
    pools = {name: one.work_pool.name for name, one in deployments().items()}
    assert pools.pop("rehearsal") not in pools.values()
    assert set(pools) == {"local", "linode", "nightly", "reaper"}


def test_nightly_rents_at_linode_at_an_hour_of_a_named_timezone_watched_by_a_reaper() -> None:
    nightly = deployments()["nightly"]
    assert nightly.run["machine"] == "linode"
    assert nightly.run["promote"]
    assert nightly.run["rental"].get("reaper", True)
    (schedule,) = nightly.schedules
    assert (schedule.cron, schedule.timezone) == ("0 2 * * *", "Etc/UTC")
    assert schedule.next().hour == 2
    assert not schedule.active  # renting every night is for a person to begin


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ({"cron": "61 * * * *"}, "'61 * * * *' is no schedule of cron's"),
        ({"cron": "0 0 30 2 *"}, "'0 0 30 2 *' never comes"),
        ({"interval": 0}, "interval"),
        ({"interval": 1e300}, "interval"),
        ({"cron": "0 2 * * *", "timezone": "Mars/Olympus"}, "no timezone 'Mars/Olympus'"),
        ({"interval": 60, "timezone": "CEST"}, "no timezone 'CEST'"),
        ({"cron": "0 2 * * *", "timezone": ""}, "timezone"),
        ({"cron": "0 2 * * *", "interval": 60}, "either `cron` or `interval`"),
        ({}, "either `cron` or `interval`"),
        ({"corn": "0 2 * * *"}, "corn"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_by_name(
    tmp_path: Path, schedule: dict[str, Any], said: str
) -> None:
    path = with_nightly(tmp_path, schedules=[schedule])
    with pytest.raises(InputError, match="^Deployment nightly of ") as caught:
        read_deployments(path)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"parameters": {"parameters": {"archives": ["a.tar"], "recipe": "none"}}}, "none"),
        ({"parameters": {"parameters": {"archives": []}}}, "archives"),
        ({"work_pool": None}, "work_pool"),
        ({"name": "local"}, "local twice"),
    ],
)
def test_what_could_not_run_at_night_is_refused_by_day(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError) as caught:
        read_deployments(with_nightly(tmp_path, **changes))
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["deployments: [", "deployments: {}", "", "- 1", "\x00"])
def test_what_is_no_such_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prefect.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=str(path)):
        read_deployments(path)


def test_an_entrypoint_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = with_nightly(tmp_path, entrypoint="pipeline.flow.no_such_flow")
    nightly = {one.name: one for one in read_deployments(path)}["nightly"]
    with pytest.raises(InputError, match=r"pipeline\.flow\.no_such_flow of deployment nightly"):
        _ = nightly.flow


def test_options_change_what_they_name_and_nothing_else() -> None:
    nightly = deployments()["nightly"]
    changed = nightly.with_run({"archives": ["a.tar"], "rental": {"budget": 2}})
    assert changed.run == nightly.run | {"archives": ["a.tar"], "rental": {"budget": 2}}
    local = deployments()["local"]  # which rents nothing
    elsewhere = local.with_run({"archives": ["a.tar"], "rental": {"budget": 2}})
    assert elsewhere.run == local.run | {"archives": ["a.tar"]}
    (schedule,) = changed.with_schedule("30 3 * * 1").schedules
    assert (schedule.cron, schedule.timezone, schedule.slug) == (
        "30 3 * * 1", "Etc/UTC", "nightly",
    )  # fmt: skip


def test_settings_are_added_to_those_there_are_until_there_is_another_recipe() -> None:
    linode = deployments()["linode"].with_run({"overrides": {"epochs": "3"}})
    more = linode.with_run({"overrides": {"lr": "1e-3"}})
    assert more.run["overrides"] == {"epochs": "3", "lr": "1e-3"}
    assert "overrides" not in more.with_run({"recipe": "tiny"}).run
    both = more.with_run({"recipe": "tiny", "overrides": {"epochs": "4"}})
    assert both.run["overrides"] == {"epochs": "4"}


def test_another_recipe_leaves_what_belongs_to_the_archive() -> None:
    said = {"archives": ["cells.tar"], "classes": ["background", "cell"], "max_side": 160}
    linode = deployments()["linode"].with_run(said)
    assert said.items() <= linode.with_run({"recipe": "tiny"}).run.items()
