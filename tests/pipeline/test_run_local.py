"""`voc-train run local` from an archive to a checkpoint."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from commands import COMMAND, Said, VocTrain
from infra.stores import Store
from pipeline.sample_archive import SAMPLE_CLASSES, write_sample_archive
from servers.rgw import RGW

Typed = Callable[..., Said]


@pytest.fixture
def typed(flows: None, voc_train: VocTrain, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """The command line in this process, and with a Prefect server that is there."""

    def typed(*arguments: str, home: Path, code: int = 0) -> Said:
        monkeypatch.setenv("VOC_TRAIN_HOME", str(home))
        said = voc_train(*arguments)
        assert said.code == code, said
        assert "Traceback" not in said.err
        return said

    return typed


def last_json(said: Said) -> Any:
    return json.loads(said.out.splitlines()[-1])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("voc-train")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "shapes.tar"
    write_sample_archive(path, train=24, val=6, unlabelled=3)
    return path


def command(archive: Path, *more: str) -> tuple[str, ...]:
    return (
        *("run", "local", "--archive", str(archive), "--classes", ",".join(SAMPLE_CLASSES)),
        *("--recipe", "tiny", "--set", "epochs=2", "--wandb", "offline", "--workers", "0"),
        *("--json", *more),
    )


@pytest.fixture(scope="module")
def first(archive: Path, home: Path) -> Any:
    """What the installed command says, which starts a Prefect server for itself."""
    done = subprocess.run(
        [COMMAND, *command(archive, "--set", "min_miou=none")],
        env=os.environ | {"VOC_TRAIN_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_flow_ends_with_a_verified_checkpoint_and_a_report(first: Any, home: Path) -> None:
    from model.checkpoint import file_sha256, load, weights_digest

    assert set(first) >= {
        "run_id", "checkpoint", "sha256", "weights_digest", "miou", "report", "seconds", "reused",
    }  # fmt: skip
    checkpoint = Path(first["checkpoint"])
    assert file_sha256(checkpoint) == first["sha256"]
    description, state = load(checkpoint)
    assert weights_digest(state["net"]) == first["weights_digest"]
    assert description.miou == first["miou"]
    assert description.run_id == first["run_id"]
    assert Path(first["report"]).read_text().startswith("<!doctype html>")
    assert first["reused"] == []
    assert list(first["seconds"]) == [
        "extract", "separate", "build-dataset", "train", "fetch-checkpoint", "evaluate",
    ]  # fmt: skip
    assert not list((home / "jobs").iterdir()), "a finished job leaves its folder behind"


def test_no_photo_is_unpacked_and_a_local_archive_is_not_copied(
    first: Any, archive: Path, home: Path
) -> None:
    everything = [path for path in home.rglob("*") if path.is_file()]
    samples = home / "store" / "runs" / first["run_id"] / "samples"
    assert not [p for p in everything if p.suffix == ".jpg" and p.parent != samples]
    assert not [p for p in everything if p.stat().st_size == archive.stat().st_size]


def test_the_same_input_is_reused_and_gives_the_same_weights(
    first: Any, archive: Path, home: Path, typed: Typed
) -> None:
    again = last_json(typed(*command(archive, "--set", "min_miou=none"), home=home))
    assert again["run_id"] != first["run_id"]
    assert again["reused"] == ["extract", "separate", "build-dataset"]
    assert again["weights_digest"] == first["weights_digest"]


def test_a_changed_recipe_trains_anew_on_the_same_dataset(
    first: Any, archive: Path, home: Path, typed: Typed
) -> None:
    other = last_json(
        typed(*command(archive, "--set", "min_miou=none", "--set", "lr=1e-3"), home=home)
    )
    assert other["reused"] == ["extract", "separate", "build-dataset"]
    assert other["weights_digest"] != first["weights_digest"]
    assert len(list((home / "store" / "datasets").iterdir())) == 1


def test_a_run_below_the_gate_fails_but_keeps_checkpoint_and_report(
    first: Any, archive: Path, home: Path, typed: Typed
) -> None:
    done = typed(*command(archive, "--set", "min_miou=0.99"), home=home, code=1)
    assert "0.99" in done.err
    said = last_json(done)
    assert said["cause"] == "BELOW_GATE"
    assert str(home / "checkpoints" / said["run_id"] / "report.html") in said["message"]
    assert said["message"] in done.err
    records = json.loads(typed("status", "--json", home=home).out)
    failed = [record for record in records if record["state"] == "failed"]
    assert [(r["run_id"], r["cause"]) for r in failed] == [(said["run_id"], "BELOW_GATE")]
    assert (home / "checkpoints" / failed[0]["run_id"] / "checkpoint.pt").exists()
    assert (home / "store" / "runs" / failed[0]["run_id"] / "report.html").exists()


def test_a_device_that_is_not_here_is_refused_before_the_work(
    archive: Path, home: Path, typed: Typed
) -> None:
    store = home / "other-store"
    done = typed(*command(archive, "--device", "mps", "--store", str(store)), home=home, code=2)
    assert "mps" in last_json(done)["message"]
    assert not (store / "archives").exists()


def test_status_fetch_and_evaluate_agree_with_the_run(
    first: Any, archive: Path, home: Path, tmp_path: Path, typed: Typed
) -> None:
    table = typed("status", home=home).out
    assert first["run_id"] in table
    one = json.loads(typed("status", first["run_id"], "--json", home=home).out)
    assert one["state"] == "done"
    assert one["outcome"]["miou"] == first["miou"]
    assert one["result"]["cause"] is None

    fetched = typed("fetch", first["run_id"], "--out", str(tmp_path / "out"), "--json", home=home)
    assert last_json(fetched)["sha256"] == first["sha256"]
    score = typed(
        *("evaluate", str(tmp_path / "out" / "checkpoint.pt")),
        *("--archive", str(archive), "--json"),
        home=home,
    )
    assert last_json(score)["miou"] == first["miou"]


def test_what_does_not_exist_is_said_in_a_sentence(
    home: Path, tmp_path: Path, typed: Typed
) -> None:
    assert "nosuchrun" in typed("status", "nosuchrun", home=home, code=2).err
    assert "nosuchrun" in typed("fetch", "nosuchrun", home=home, code=2).err
    for run_id in ("../x", "", "a/b"):
        assert "is no run's id" in typed("status", run_id, home=home, code=2).err
        assert "is no run's id" in typed("fetch", run_id, home=home, code=2).err
    checkpoint, archive = tmp_path / "no.pt", tmp_path / "no.tar"
    evaluate = ("evaluate", str(checkpoint), "--archive", str(archive))
    assert f"{archive} does not exist" in typed(*evaluate, home=home, code=2).err
    archive.touch()
    missing = typed(*evaluate, home=home, code=2)
    assert f"There is no checkpoint {checkpoint}" in missing.err


@pytest.fixture
def at_work(archive: Path, tmp_path: Path) -> Iterator[psutil.Popen]:
    """A long run in a process group of its own, as a terminal's, whose training has begun."""
    process = psutil.Popen(
        [
            *(COMMAND, "run", "local", "--archive", str(archive), "--recipe", "tiny"),
            *("--classes", ",".join(SAMPLE_CLASSES), "--set", "epochs=100000"),
            *("--wandb", "disabled", "--workers", "0"),
        ],
        env=os.environ | {"VOC_TRAIN_HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Where the tests run in the background, the shell had it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert any("epoch 1/" in line for line in process.stderr), "training did not begin"
    family = process.children(recursive=True)
    yield process
    for member in (process, *family):  # where the test failed
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()


def gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=60)[1]


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
def test_a_stop_stops_everything_and_says_so(
    at_work: psutil.Popen, tmp_path: Path, how: str, typed: Typed
) -> None:
    family = at_work.children(recursive=True)
    assert len(family) >= 3, "a server, an agent and its training"
    if how == "Ctrl-C":
        os.killpg(at_work.pid, signal.SIGINT)  # a terminal tells the whole group
    else:
        at_work.terminate()
    assert at_work.wait(100) == 130
    assert at_work.stderr is not None
    assert "what was running has been stopped" in at_work.stderr.read()
    assert gone(family)
    (run,) = json.loads(typed("status", "--json", home=tmp_path).out)
    assert (run["state"], run["cause"]) == ("failed", "CANCELLED")
    fetched = typed("fetch", run["run_id"], "--json", home=tmp_path)
    assert last_json(fetched)["run_id"] == run["run_id"]


def step(home: Path) -> int:
    (heartbeat,) = home.glob("store/runs/*/heartbeat.json")
    return int(json.loads(heartbeat.read_bytes())["progress"].get("step", 0))


def test_a_killed_run_leaves_the_agent_at_work_and_nothing_else(
    at_work: psutil.Popen, tmp_path: Path
) -> None:
    family = at_work.children(recursive=True)
    servers = [p for p in family if "prefect" in " ".join(p.cmdline())]
    agents = [p for p in family if "infra.agent" in p.cmdline()]
    assert servers
    assert agents
    at_work.kill()
    at_work.wait()
    assert gone(servers)
    goal = step(tmp_path) + 20
    while step(tmp_path) < goal:
        assert not psutil.wait_procs(agents, timeout=0.5)[0], "the agent ended with its controller"
    agents[0].terminate()
    assert gone(family)


def test_a_dataset_that_was_tampered_with_is_not_scored(
    first: Any, archive: Path, home: Path, tmp_path: Path, typed: Typed
) -> None:
    copy = tmp_path / "home"
    score = ("evaluate", first["checkpoint"], "--archive", str(archive))
    typed(*score, home=copy)
    (shard,) = copy.glob("store/datasets/*/shards/00000.tar")
    data = bytearray(shard.read_bytes())
    data[2000:2040] = bytes(40)
    shard.write_bytes(data)
    assert "00000.tar is damaged" in typed(*score, home=copy, code=1).err


def test_an_archive_changed_under_its_old_date_is_noticed(
    first: Any, archive: Path, tmp_path: Path, typed: Typed
) -> None:
    mine = tmp_path / "mine.tar"
    mine.write_bytes(archive.read_bytes())
    score = ("evaluate", first["checkpoint"], "--archive", str(mine))
    typed(*score, home=tmp_path)
    before = mine.stat()
    with mine.open("r+b") as file:
        file.seek(archive.read_bytes().index(b"JFIF\0") + 9)
        file.write(b"\x07")  # a photo's dots per inch: another file, the same pixels
    os.utime(mine, ns=(before.st_atime_ns, before.st_mtime_ns))
    typed(*score, home=tmp_path)
    assert len(list(tmp_path.glob("store/archives/*.index.jsonl"))) == 2


def test_a_bucket_can_hold_archive_and_store(
    rgw: RGW, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: Typed
) -> None:
    for name, value in rgw.environment().items():
        monkeypatch.setenv(name, value)
    rgw.create_bucket("end-to-end")
    Store.open("s3://end-to-end").put_file("in/shapes.tar", archive)
    store = ("--store", "s3://end-to-end/results")
    home = tmp_path / "bucket"
    done = typed(
        *("run", "local", "--archive", "s3://end-to-end/in/shapes.tar", *store),
        *("--classes", ",".join(SAMPLE_CLASSES), "--recipe", "tiny", "--set", "epochs=1"),
        *("--set", "min_miou=none", "--wandb", "disabled", "--workers", "0", "--json"),
        home=home,
    )
    outcome = last_json(done)
    again = typed(
        "fetch", outcome["run_id"], *store, "--out", str(tmp_path / "elsewhere"), "--json",
        home=tmp_path / "another-computer",
    )  # fmt: skip
    assert last_json(again)["sha256"] == outcome["sha256"]
    secret = rgw.environment()["AWS_SECRET_ACCESS_KEY"].encode()
    for entry in Store.open("s3://end-to-end").list("results"):
        data = Store.open("s3://end-to-end").get(entry.key)
        assert data is not None
        assert secret not in data
    assert not [p for p in home.rglob("*") if p.is_file() and secret in p.read_bytes()]


def test_real_photos(real_data: Path, home: Path, typed: Typed) -> None:
    """A short form of the README's command: loss falls, and beats a constant prediction."""
    done = typed(
        *("run", "local", "--archive", str(real_data / "voc2012-subset.tar")),
        *("--recipe", "voc-segmentnet", "--max-side", "64", "--set", "image_size=64"),
        *("--set", "width=16", "--set", "loss=tversky", "--set", "lr=4e-3", "--set", "epochs=4"),
        *("--set", "batch_size=8", "--set", "scale=0.8,1.25", "--set", "rotate=0"),
        *("--wandb", "disabled", "--workers", "0", "--json"),
        home=home,
    )
    outcome = last_json(done)
    run_folder = home / "store" / "runs" / outcome["run_id"]
    records = [json.loads(line) for line in (run_folder / "metrics.jsonl").open()]
    epochs = [record for record in records if record["kind"] == "epoch"]
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]
    dataset = json.loads((run_folder / "run.json").read_bytes())["dataset"]
    manifest = json.loads((home / "store" / "datasets" / dataset / "manifest.json").read_bytes())
    assert manifest["counts"] == {"train": 663, "val": 469, "test": 0}
    *pixels, _void = manifest["pixels"]["val"]
    all_background = pixels[0] / sum(pixels) / len(pixels)  # every other class has an IoU of 0
    assert outcome["miou"] > all_background
