"""`voc-train wandb-sync`: one W&B run, whatever the run went through and whatever W&B has of it.

W&B's library is the real one; its server is on loopback (`tests/support/servers/wandb.py`).
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import checkpoints
from commands import COMMAND
from infra.failure import Cause, Failure
from infra.mirror import Mirror
from infra.protocol import now
from infra.stores import Store
from model import checkpoint
from model.journal import Journal
from offline_wandb import history, offline_records
from pipeline.champion import Checkpoint, History, decide
from pipeline.run_record import RunRecord
from pipeline.wandb_sync import Synced, show_champion, sync_to_wandb
from servers.wandb import KEY, Bucket, WandbServer
from tiny import labelled

RUN = "run"  # as `tests/support/checkpoints.py` calls it
SUMMARY = {"train_loss": 0.5, "val_loss": 0.25, "mean_dice": 0.5, "pixel_accuracy": 0.75}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """W&B, whose key is in the environment."""
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield server


def write_run(
    store: Store, out: Path, steps: int, run_id: str = RUN, *, begun: int = 0
) -> dict[int, float]:
    """A run of two steps an epoch in the store, as agent and controller leave it: its losses.

    With `begun`, training goes on from that step.
    """
    origin = checkpoints.describe(0).model_copy(update={"run_id": run_id, "wandb_id": run_id})
    with Journal(out, begun) as journal:
        if not begun:
            journal.write("start", 0, **origin.model_dump(mode="json", exclude={"step", "epoch"}))
        for step in range(begun + 1, steps + 1):
            journal.write("step", step, epoch=step / 2, loss=1 / step, lr=0.01)
            if step % 2 == 0:
                _end_epoch(journal, step)
    described = checkpoints.describe(steps, steps / 10)
    described = described.model_copy(update={"run_id": run_id, "wandb_id": run_id})
    checkpoint.save(out / "checkpoints", described, {"net": checkpoints.WEIGHTS})
    (out / "report.html").write_text(f"<h1>{run_id}</h1>")
    Mirror(store, run_id, out).sync(last=True)
    parameters = {"recipe": "tiny", "wandb": "auto"}
    record = RunRecord.model_validate(
        {"run_id": run_id, "state": "done", "started": now(), "parameters": parameters}
    )
    store.write(f"runs/{run_id}/run.json", record)
    return {step: 1 / step for step in range(1, steps + 1)}


def _end_epoch(journal: Journal, step: int) -> None:
    iou: dict[str, float | None] = {"background": 0.9, "red": step / 100, "green": None}
    values = SUMMARY | {"miou": step / 10, "iou": iou, "images_per_second": None}
    journal.write("epoch", step, epoch=step // 2, **values)
    photo, mask = labelled(1, 17, 26)
    journal.save_samples({"one": (photo, mask, np.zeros_like(mask))}, step)


def synced(store: Store, run_id: str = RUN) -> Synced:
    return sync_to_wandb(store, run_id, online=True)


def crown(store: Store, run_id: str) -> None:
    """Make the run's checkpoint the champion."""
    prefix = f"runs/{run_id}/checkpoints"
    step = store.folders(prefix)[-1]
    manifest = checkpoint.parse_manifest(store.get(f"{prefix}/{step}/manifest.json") or b"")
    assert manifest
    shared = {name: getattr(manifest, name) for name in Checkpoint.model_fields if name != "key"}
    promoted = Checkpoint(key=f"{prefix}/{step}", **shared)
    decide(store, History.load(store), "promoted", promoted, "better")


def losses_at(server: WandbServer, run_id: str = RUN) -> dict[int, float]:
    rows = server.runs[run_id].rows()
    return {step: row["train/loss"] for step, row in rows.items() if step}


def test_wandb_gets_all_of_a_run_and_nothing_twice(
    server: WandbServer, store: Store, tmp_path: Path
) -> None:
    losses = write_run(store, tmp_path / "out", 4)
    first = synced(store)
    assert (first.did, first.checkpoint, first.champion) == ("added", True, False)
    assert first.place == f"{server.url}/somebody/voc-train/runs/{RUN}"
    run = server.runs[RUN]
    assert losses_at(server) == losses
    assert {step for step, row in run.rows().items() if "val/miou" in row} == {2, 4}
    assert run.rows()[4]["iou/red"] == 0.04
    assert run.summary["best_miou"] == 0.4
    assert (run.project, run.group, run.exit_code) == ("voc-train", RUN, 0)
    assert run.settings()["batch_size"] == checkpoints.RECIPE.batch_size
    for step in (2, 4):
        picture = run.rows()[step]["samples/one"]
        masks = [mask["path"] for mask in picture["masks"].values()]
        assert len(masks) == 2
        assert {picture["path"], *masks} <= run.files.keys()
    assert run.files["report.html"] == f"<h1>{RUN}</h1>".encode()
    (version,) = server.artifacts["checkpoint"]
    assert (version.kind, version.committed) == ("model", True)
    blob = store.get(f"runs/{RUN}/checkpoints/00000004/checkpoint.pt")
    assert version.files == {"checkpoint.pt": blob}
    assert version.aliases == {"latest", "run-run"}

    again = synced(store)
    assert (again.did, again.sent) == ("nothing", 0)
    assert (losses_at(server), run.received) == (losses, 5)
    assert len(server.artifacts["checkpoint"]) == 1

    losses = write_run(store, tmp_path / "out", 6, begun=4)
    more = synced(store)
    assert (more.did, more.sent) == ("added", 4)  # two steps, an epoch, its samples
    assert (losses_at(server), run.received) == (losses, 7)
    assert run.summary["best_miou"] == 0.6
    assert len(server.artifacts["checkpoint"]) == 2


def test_what_attempts_left_at_wandb_gives_way_to_the_journal(
    server: WandbServer, store: Store, tmp_path: Path
) -> None:
    losses = write_run(store, tmp_path / "out", 4)
    # Fed live by one machine until it was lost, then by another: of steps that were done twice it
    # holds the first, and what was said while nobody could reach it is missing.
    run = server.runs[RUN] = Bucket(RUN, "voc-train")
    run.lines["wandb-history.jsonl"] = [
        json.dumps({"_step": step, "train/loss": 99.0}) for step in (0, 1, 3, 7)
    ]
    run.lines["wandb-summary.json"] = [json.dumps({"_step": 7, "best_miou": 0.9})]
    server.refuse("file_stream", 500, times=1)
    assert synced(store).did == "replaced"
    assert losses_at(server) == losses
    assert run.summary["best_miou"] == 0.4
    assert server.refused == 1


def test_the_alias_goes_from_champion_to_champion(
    server: WandbServer, store: Store, tmp_path: Path
) -> None:
    said: list[str] = []
    for number, run_id in enumerate(("first", "second"), 1):
        write_run(store, tmp_path / run_id, 2 * number, run_id)
        crown(store, run_id)
        show_champion(store, said.append)
        (version,) = server.with_alias("champion")
        assert f"run-{run_id}" in version.aliases
        assert version.metadata["run_id"] == run_id
    assert len(server.artifacts["checkpoint"]) == 2
    assert [line.rsplit("/")[-1] for line in said] == ["first", "second"]


def deliver(command: str) -> None:
    """As a person who types it."""
    typed = command.replace("wandb", str(COMMAND.with_name("wandb")), 1)
    subprocess.run(typed, shell=True, check=True, capture_output=True, timeout=120)


def test_offline_folders_are_delivered_once_by_wandb_sync(
    server: WandbServer, store: Store, tmp_path: Path
) -> None:
    write_run(store, tmp_path / "out", 2)
    first = sync_to_wandb(store, RUN, online=False)
    assert first.command
    deliver(first.command)
    losses = write_run(store, tmp_path / "out", 4, begun=2)
    second = sync_to_wandb(store, RUN, online=False)
    assert second.did == "added"
    assert sync_to_wandb(store, RUN, online=False).did == "nothing"
    files = [next(Path(one.place).glob("*.wandb")) for one in (first, second)]
    assert [set(history(offline_records(file))) for file in files] == [{0, 1, 2}, {3, 4}]
    assert second.command
    deliver(second.command)
    assert losses_at(server) == losses
    versions = server.artifacts["checkpoint"]
    assert [(version.committed, len(version.files)) for version in versions] == [(True, 1)] * 2


def test_without_a_key_the_alias_is_written_offline_and_nothing_else(
    store: Store, tmp_path: Path, isolated_home: Path
) -> None:
    write_run(store, tmp_path / "out", 2)
    crown(store, RUN)
    said: list[str] = []
    show_champion(store, said.append)
    (file,) = isolated_home.rglob("offline-run-*/*.wandb")
    assert f"wandb sync {file.parent.parent}" in said[0]
    records = list(offline_records(file))
    assert history(records) == {}
    (artifact,) = (record.artifact for record in records if record.HasField("artifact"))
    assert {"champion", "run-run"} <= set(artifact.aliases)
    (run,) = (record.run for record in records if record.HasField("run"))
    assert (run.run_id, run.run_group) == ("run-champion", RUN)


def test_a_server_that_takes_nothing_is_no_success_and_undoes_no_promotion(
    server: WandbServer, store: Store, tmp_path: Path
) -> None:
    write_run(store, tmp_path / "out", 2)
    server.refuse("file_stream", 400, times=10**6)
    with pytest.raises(Failure, match="W&B did not take run run") as caught:
        sync_to_wandb(store, RUN, online=True, patience=8)
    assert caught.value.cause is Cause.PROVIDER


@pytest.mark.parametrize(
    ("key", "status", "cause", "cure"),
    [
        (None, None, Cause.BAD_INPUT, "--offline"),
        ("short", None, Cause.BAD_INPUT, "Copy the key anew"),
        ("f" * 40, None, Cause.BAD_INPUT, "Copy the key anew"),
        (KEY, 503, Cause.PROVIDER, "later"),
    ],
)
def test_no_key_a_wrong_one_and_a_server_that_is_away_are_said(
    server: WandbServer,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    key: str | None,
    status: int | None,
    cause: Cause,
    cure: str,
) -> None:
    write_run(store, tmp_path / "out", 2)
    crown(store, RUN)
    monkeypatch.delenv("WANDB_API_KEY")
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    if status:
        server.refuse("graphql", status, times=10**6)
    with pytest.raises(Failure, match=cure) as caught:
        synced(store)
    assert caught.value.cause is cause
    assert not key or key not in str(caught.value)
    said: list[str] = []
    if key:  # without one it is written offline
        show_champion(store, said.append)
        assert [f"`voc-train wandb-sync {RUN}`" in line for line in said] == [True]
    history = History.load(store)
    assert history.champion
    assert server.runs == {}


def test_a_run_without_wandb_stays_without_it(
    server: WandbServer, store: Store, tmp_path: Path, isolated_home: Path
) -> None:
    write_run(store, tmp_path / "out", 2)
    record = store.read(f"runs/{RUN}/run.json", RunRecord)
    assert record
    disabled = record.model_copy(update={"parameters": {"recipe": "tiny", "wandb": "disabled"}})
    store.write(f"runs/{RUN}/run.json", disabled)
    crown(store, RUN)
    said: list[str] = []
    show_champion(store, said.append)
    assert (said, server.runs) == ([], {})
    assert not list(isolated_home.rglob("offline-run-*"))


def test_a_run_with_nothing_logged_is_refused(store: Store) -> None:
    with pytest.raises(Failure, match="has logged nothing") as caught:
        sync_to_wandb(store, "unknown", online=False)
    assert caught.value.cause is Cause.BAD_INPUT


def test_the_command(store: Store, tmp_path: Path) -> None:
    write_run(store, tmp_path / "out", 2)
    command = [COMMAND, "wandb-sync", RUN, "--store", store.url, "--json"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    assert json.loads(refused.stdout)["cause"] == "BAD_INPUT"
    assert "--offline" in refused.stderr
    done = subprocess.run(
        [*command, "--offline"], capture_output=True, text=True, timeout=60, check=True
    )
    said = json.loads(done.stdout)
    assert (said["run_id"], said["records"], said["online"]) == (RUN, 5, False)
    assert Path(said["place"]).is_dir()
