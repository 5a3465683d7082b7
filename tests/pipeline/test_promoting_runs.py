"""What is seen of a decision about the champion: at Prefect, at W&B, in report and message."""

import json
from pathlib import Path
from typing import Any

import pytest

from commands import VocTrain
from infra.stores import Store
from offline_wandb import offline_records
from pipeline.sample_archive import SAMPLE_CLASSES, write_sample_archive
from servers.prefect import PrefectServer
from servers.receiver import Receiver


def shown(server: PrefectServer, key: str, title: str) -> dict[str, dict[str, Any]]:
    """By key, all artifacts of the flow run that has one of this key and title."""
    found = server.post("artifacts/filter", artifacts={"key": {"any_": [key]}})
    (one,) = [one for one in found if one["data"].startswith(f"# {title}\n")]
    of = {"flow_run_id": {"any_": [one["flow_run_id"]]}}
    return {one["key"]: one for one in server.post("artifacts/filter", artifacts=of)}


def crowned(home: Path, run_id: str) -> int:
    """How often W&B's folders say that this run's checkpoint is the champion."""
    files = (home / "voc-train/wandb" / f"{run_id}-champion").rglob("*.wandb")
    records = [record for file in files for record in offline_records(file)]
    return len([one for one in records if "champion" in one.artifact.aliases])


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("flows")
def test_a_decision_is_seen_wherever_somebody_looks(
    prefect: PrefectServer,
    store: Store,
    voc_train: VocTrain,
    tmp_path: Path,
    isolated_home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    archive = tmp_path / "shapes.tar"
    write_sample_archive(archive, train=40, val=12)

    def command(*words: object) -> dict[str, Any]:
        said = voc_train(*words, "--store", store.url, "--json")
        assert said.code == 0, said
        return dict(json.loads(said.out.splitlines()[-1]))

    def run(*more: str) -> dict[str, Any]:
        return command(
            *("run", "local", "--archive", archive, "--promote", "--recipe", "tiny", *more),
            *("--classes", ",".join(SAMPLE_CLASSES), "--workers", "0", "--wandb", "offline"),
            *("--set", "width=4", "--set", "batch_size=4", "--set", "epochs=6"),
            *("--set", "min_miou=none"),
        )

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Receiver() as receiver:
        monkeypatch.setenv("VOC_TRAIN_NOTIFY", receiver.url)

        first = run()
        a = first["run_id"]
        assert first["decision"] == "promoted"
        assert receiver.titles[0] == f"voc-train: run {a} was promoted"
        assert first["decision_said"] in receiver.messages[0]["message"]
        at_prefect = shown(prefect, "voc-train-decision", f"Run {a}: promoted")
        assert first["decision_said"] in at_prefect["voc-train-decision"]["data"]
        for name in SAMPLE_CLASSES:
            assert f"| {name} |" in at_prefect["voc-train-decision"]["data"]
        assert at_prefect["voc-train-disputes"]["data"].startswith("data:image/png;base64,")
        report = Path(first["report"]).read_text()
        assert "Promoted: the new champion" in report
        assert "Where the two disagree most" in report
        assert crowned(isolated_home, a) == 1

        same = run()
        assert same["trained_by"] == a
        title = f"Run {same['run_id']}: nothing to do"
        at_prefect = shown(prefect, "voc-train-unchanged", title)
        assert "nothing has changed since" in at_prefect["voc-train-unchanged"]["data"]

        forced = run("--force")
        b = forced["run_id"]
        assert (forced["decision"], forced["weights_digest"]) == (
            "refused",
            first["weights_digest"],
        )
        assert shown(prefect, "voc-train-decision", f"Run {b}: refused")
        assert "Refused: the champion stays" in Path(forced["report"]).read_text()
        assert crowned(isolated_home, b) == 0

        by_hand = command("promote", b)
        assert (by_hand["checkpoint"]["run_id"], by_hand["by_hand"]) == (b, True)
        assert command("champion")["champion"]["checkpoint"]["run_id"] == b
        assert receiver.titles[-1] == f"voc-train: champion now: run {b}"
        assert crowned(isolated_home, b) == 1

        assert command("rollback")["checkpoint"]["run_id"] == a
        assert receiver.titles[-1] == f"voc-train: champion now: run {a}"
        assert crowned(isolated_home, a) == 2

        again = voc_train("promote", a, "--store", store.url)
        assert again.code == 2
        assert f"Run {a} is champion already" in again.err
        b_again = voc_train("promote", b, "--store", store.url).out
        assert b_again.startswith(f"champion now: run {b}, step {by_hand['checkpoint']['step']}, ")
