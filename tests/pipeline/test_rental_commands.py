"""plan, doctor, smoke and reap as they are typed, against a simulated account without machines."""

import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from infra.clock import Clock
from infra.linode import Linode
from infra.ownership import label, tags
from infra.provider import VolumeOrder
from infra.reaper import ReaperReport
from infra.receipt import read_receipt
from infra.simulator import Simulator
from infra.stores import Store
from pipeline.cli import main
from servers.rgw import RGW

COMMAND = Path(sys.executable).with_name("voc-train")
RUN = "261121-4k2ra"


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """What stands on standard output, however it was wrapped."""
        return " ".join(self.out.split())


VocTrain = Callable[..., Said]


@pytest.fixture
def requests() -> list[str]:
    """Every request to the simulated account."""
    return []


@pytest.fixture
def speed() -> float:
    """Simulated seconds in a real one."""
    return 60


@pytest.fixture
def simulator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, requests: list[str], speed: float
) -> Iterator[Simulator]:
    clock, folder = Clock.fast(speed), tmp_path / "simulator"
    with Simulator(folder, clock=clock, machines=False, tell=requests.append) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        yield simulator


@pytest.fixture
def voc_train(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[VocTrain]:
    """The command line, in this process."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("COLUMNS", "80")

    def voc_train(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["voc-train", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        return Said(int(left.value.code or 0), *capfd.readouterr())

    yield voc_train
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """The installed command, as a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [COMMAND, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _home_store() -> Path:
    return Path(os.environ["VOC_TRAIN_HOME"], "store")


def _volume(simulator: Simulator, *, hours: float) -> None:
    """Rent something whose lease ends in so many hours."""
    until = simulator.clock.now() + timedelta(hours=hours)
    provider = Linode(simulator.token, simulator.url, clock=simulator.clock)
    provider.create(VolumeOrder(label(RUN, "v"), tags(RUN, until), "us-ord", 100))


# plan


def test_a_plan_shows_prices_and_everything_and_touches_nothing(
    voc_train: VocTrain, simulator: Simulator, requests: list[str]
) -> None:
    said = voc_train("plan", "--region", "us-ord", "--ssh-from", "192.0.2.7/32")

    assert said.code == 0, said
    for words in (
        "g2-gpu-rtx4000a1-s us-ord RTX4000 Ada x1 Small 0.52 yes",
        "first hour $0.52",
        "worst case $4.68",
        "at most $5.00, the budget",
        "a machine g2-gpu-rtx4000a1-s in us-ord",
        "SSH in from 192.0.2.7/32",
        "StackScript",
    ):
        assert words in said.words
    assert max(len(line) for line in said.out.splitlines()) <= 80
    assert simulator.left() == []
    assert requests
    assert all(line.startswith("GET ") for line in requests)
    assert not _home_store().exists()


@pytest.mark.parametrize("route", ["bucket", "volume"])
@pytest.mark.parametrize("prepare_on", ["local", "linode"])
@pytest.mark.parametrize("budget", [0.7, 1.57, 5, 40])
def test_the_worst_case_never_passes_the_budget(
    voc_train: VocTrain, simulator: Simulator, route: str, prepare_on: str, budget: float
) -> None:
    more = ("--route", route, "--prepare-on", prepare_on, "--budget", budget)
    plan = json.loads(voc_train("plan", "--json", *more).out)
    assert plan["at_most_dollars"] == budget
    assert 0.52 <= plan["first_hour_dollars"] <= plan["worst_case_dollars"] <= budget


def test_the_worst_case_is_the_dearest_offer_for_all_its_hours(
    voc_train: VocTrain, simulator: Simulator
) -> None:
    asked = ("--budget", 100, "--limit", "train_hours=3", "--region", "us-ord")
    plan = json.loads(voc_train("plan", "--json", *asked).out)
    dearest = max(offer["dollars_per_hour"] for offer in plan["offers"])
    assert plan["hours"] == 4
    assert plan["worst_case_dollars"] == pytest.approx(4 * dearest)


def test_the_volume_route_shows_its_second_machine_and_its_volume(
    voc_train: VocTrain, simulator: Simulator
) -> None:
    local = json.loads(voc_train("plan", "--json").out)
    said = voc_train("plan", "--route", "volume")
    volume = json.loads(voc_train("plan", "--route", "volume", "--json").out)

    assert "a machine g6-standard-2 to prepare the data, $0.036 an hour" in said.words
    assert "a Volume of 20 GB, $0.003 an hour; after a failure it stays a day, for $0.07" in (
        said.words
    )
    # The machine, the Volume, and the day that the Volume may stay.
    assert volume["first_hour_dollars"] - local["first_hour_dollars"] == pytest.approx(
        0.036 + 0.003 + 24 * 0.003
    )


def test_a_machine_that_prepares_is_shown(voc_train: VocTrain, simulator: Simulator) -> None:
    said = voc_train("plan", "--prepare-on", "linode")
    assert "a machine g6-standard-2 to prepare the data" in said.words
    assert "Volume" not in said.words


def test_a_machine_that_prepares_stands_where_the_best_gpu_is(
    voc_train: VocTrain, simulator: Simulator
) -> None:
    plan = json.loads(voc_train("plan", "--route", "volume", "--json").out)
    with_gpu = list(dict.fromkeys(offer["region"] for offer in plan["offers"]))
    assert [offer["region"] for offer in plan["preparers"]] == with_gpu


def test_what_a_rental_would_lack_is_said_and_the_price_all_the_same(
    voc_train: VocTrain, simulator: Simulator
) -> None:
    without = voc_train("plan")
    assert without.code == 0
    assert "No reaper that deletes has looked" in without.words
    assert "at most $5.00" in without.words
    assert voc_train("reap", "--delete").code == 0
    assert json.loads(voc_train("plan", "--json").out)["lacks"] == []


# what is refused


@pytest.mark.parametrize(
    ("arguments", "fault", "code", "said"),
    [
        ((), ("expired_token", {}), 2, "LINODE_TOKEN"),
        ((), ("missing_scope", {"scope": "linodes:read_write"}), 2, "linodes:read_write"),
        (
            ("--route", "volume"),
            ("missing_scope", {"scope": "volumes:read_write"}),
            2,
            "volumes:read_write",
        ),
        ((), ("restricted_user", {}), 2, "unrestricted"),
        ((), ("price_zero", {}), 2, "no price"),
        ((), ("price_none", {}), 2, "no price"),
        (("--region", "us-ordd"), None, 2, "near to it are us-ord"),
        (("--region", "us-central"), None, 2, "us-central cannot have"),
        (("--plan", "g2-gpu-rtx4000a1"), None, 2, "g2-gpu-rtx4000a1-s"),
        (("--budget", "0.5"), None, 1, "does not pay for the first hour"),
        (("--budget", "0.54", "--route", "volume"), None, 1, "does not pay for the first hour"),
        (("--budget", "0"), None, 2, "budget"),
        (("--ssh-from", "me"), None, 2, "'me' is no network"),
        (("--ssh-from", "0.0.0.0/0"), None, 2, "everybody"),
        (("--route", "train"), None, 2, "route"),
        (("--store", "s3://user:secret@x"), None, 2, "voc-train: "),
    ],
)
def test_what_cannot_work_is_one_sentence(
    voc_train: VocTrain,
    simulator: Simulator,
    arguments: tuple[str, ...],
    fault: tuple[str, dict[str, str]] | None,
    code: int,
    said: str,
) -> None:
    if fault:
        simulator.faults.add(fault[0], **fault[1])
    answer = voc_train("plan", *arguments)
    assert (answer.code, answer.out) == (code, "")
    assert said in answer.err
    assert answer.err.startswith("voc-train: ")
    assert answer.err.count("\n") == 1
    assert "secret" not in answer.err
    assert simulator.left() == []


@pytest.mark.parametrize("command", ["plan", "smoke", "reap"])
def test_without_a_token_it_says_how_to_get_one(
    voc_train: VocTrain, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.delenv("LINODE_TOKEN")
    answer = voc_train(command)
    assert answer.code == 2
    assert "make a personal access token" in answer.err


# doctor


def test_a_doctor_finds_nothing_once_a_reaper_looks(
    voc_train: VocTrain, simulator: Simulator
) -> None:
    before = voc_train("doctor", "--json")
    wrong = {one["name"] for one in json.loads(before.out)["findings"] if one["ok"] is False}
    assert before.code == 1
    assert wrong - {"disk"} == {"reaper"}

    assert voc_train("reap", "--delete").code == 0
    after = voc_train("doctor", "--json")
    wrong = {one["name"] for one in json.loads(after.out)["findings"] if one["ok"] is False}
    assert wrong <= {"disk"}  # a developer's may be full
    assert after.code == bool(wrong)
    assert json.loads(after.out)["ok"] is not bool(wrong)
    assert simulator.left() == []


def test_a_doctor_without_a_token_says_what_it_can_and_how_to_cure_it(
    voc_train: VocTrain, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LINODE_TOKEN")
    said = voc_train("doctor", "--ssh-from", "0.0.0.0/0")
    assert said.code == 1
    assert re.search(r"✗ +token +There is no token for Linode: make a personal", said.words)
    assert "– machines Not looked at: see token." in said.words
    assert "✗ SSH from 0.0.0.0/0 lets everybody try. → Name the network" in said.words
    assert re.search(r"✓ +store", said.out)
    assert max(len(line) for line in said.out.splitlines()) <= 80


def test_a_doctor_looks_for_the_plan_that_is_meant(
    voc_train: VocTrain, simulator: Simulator
) -> None:
    said = voc_train("doctor", "--plan", "g2-gpu-rtx4000a1-s", "--region", "us-east")
    assert said.code == 1
    assert "✗ machines 1 offers, and none is free now." in said.words


def test_a_doctor_makes_the_bucket_that_is_missing(
    voc_train: VocTrain, simulator: Simulator, rgw: RGW, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in rgw.environment().items():
        monkeypatch.setenv(name, value)
    bucket = f"doctor-{uuid.uuid4().hex[:12]}"
    store = ("--store", f"s3://{bucket}/voc")

    missing = voc_train("doctor", *store)
    assert missing.code == 1
    assert f"s3://{bucket}/voc does not exist; create it first" in missing.words
    assert "→ Where the bucket is missing, `voc-train doctor --make-bucket`" in missing.words
    assert "– reaper Not looked at: see store." in missing.words

    made = voc_train("doctor", *store, "--make-bucket", "--json")
    assert "was made" in made.err
    findings = {one["name"]: one for one in json.loads(made.out)["findings"]}
    assert findings["store"]["ok"] is True
    rules = rgw.client().get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert {rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] for rule in rules} == {2}
    assert "is there" in voc_train("doctor", *store, "--make-bucket").err


def test_a_folder_is_no_bucket_to_make(voc_train: VocTrain, simulator: Simulator) -> None:
    said = voc_train("doctor", "--make-bucket")
    assert said.code == 2
    assert "is no bucket" in said.err


# smoke


def test_a_smoke_test_that_is_declined_creates_nothing(
    simulator: Simulator, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start("smoke", "--no-reaper")
    out, err = process.communicate("n\n", timeout=60)
    assert process.returncode == 1
    assert "Rent it? [y/N]" in err
    assert "no reaper" in err
    assert out.strip() == ""
    assert simulator.bill() == []
    assert not _home_store().exists()


def test_a_smoke_test_is_two_hours_of_the_cheapest_machine_and_wants_a_reaper(
    voc_train: VocTrain, simulator: Simulator
) -> None:
    refused = voc_train("smoke", "--yes", "--region", "us-ord")
    assert refused.code == 2
    assert "No reaper" in refused.err
    assert simulator.bill() == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_smoke_test_that_is_interrupted_leaves_nothing(
    simulator: Simulator, start: Callable[..., subprocess.Popen[str]], how: signal.Signals
) -> None:
    simulator.faults.add("boot_never_ends")
    process = start("smoke", "--yes", "--no-reaper", "--region", "us-ord", "--json")
    assert process.stderr
    shown = ""
    for line in process.stderr:
        shown += line
        if line.startswith("booting"):
            break
    process.send_signal(how)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 130, err
    assert "at most     $0.0150" in shown  # two hours
    assert simulator.left() == []
    said = json.loads(out)
    assert said["cause"] == "CANCELLED"
    receipt = read_receipt(Store.open(str(_home_store())), said["run_id"])
    assert receipt
    assert receipt.dollars == 0.0075
    assert all(line.gone for line in receipt.lines)
    assert "0.0075" in err


@pytest.mark.parametrize("speed", [3600])
def test_a_smoke_test_that_cannot_delete_says_what_is_left(
    voc_train: VocTrain, simulator: Simulator
) -> None:
    simulator.faults.add("boot_never_ends", times=2)
    simulator.faults.add("delete_fails", path="/linode/instances/*")
    said = voc_train("smoke", "--yes", "--no-reaper", "--region", "us-ord")
    assert said.code == 1
    assert "Could not be shown gone" in said.err
    assert "NOT SHOWN GONE" in said.out


# reap


def test_a_reaper_shows_what_would_be_saved_and_then_deletes_it(
    voc_train: VocTrain, simulator: Simulator
) -> None:
    assert "nothing of ours is there" in voc_train("reap").out
    _volume(simulator, hours=-1)

    shown = voc_train("reap")
    assert shown.code == 0
    assert "1 past their deadline, at $0.0150 an hour" in shown.words
    assert len(simulator.left()) == 1

    deleted = voc_train("reap", "--delete", "--json")
    report = ReaperReport.model_validate_json(deleted.out)
    assert report.deletes
    assert [found.label for found in report.found] == [label(RUN, "v")]
    voc_train("reap", "--delete")
    assert simulator.left() == []


def test_a_reaper_works_from_another_computer_with_a_token_and_a_store(
    voc_train: VocTrain,
    simulator: Simulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _volume(simulator, hours=5)
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    monkeypatch.delenv("VOC_TRAIN_HOME")
    said = voc_train("reap", "--delete", "--store", tmp_path / "shared")
    assert said.code == 0
    assert "live" in said.out
    assert Store.open(str(tmp_path / "shared")).read("reaper.json", ReaperReport)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_reaper_that_stays_survives_a_look_that_fails(
    simulator: Simulator, start: Callable[..., subprocess.Popen[str]], how: signal.Signals
) -> None:
    process = start("reap", "--every", "0.1", "--delete", "--json")
    assert process.stdout

    def until(wanted: str) -> dict[str, Any]:
        assert process.stdout
        for line in process.stdout:
            look: dict[str, Any] = json.loads(line)
            if wanted in look:
                return look
        raise AssertionError(process.communicate()[1])

    until("found")
    fault = simulator.faults.add("expired_token")
    assert "LINODE_TOKEN" in until("error")["error"]
    simulator.faults.remove(fault)
    until("found")

    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "this look failed: " in err


def test_a_reaper_that_was_started_with_a_wrong_token_says_so_at_once(
    simulator: Simulator,
    start: Callable[..., subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LINODE_TOKEN", "wrong")
    process = start("reap", "--every", "5")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "LINODE_TOKEN" in err


def test_what_could_not_be_seen_is_said_and_no_success(
    voc_train: VocTrain, simulator: Simulator
) -> None:
    simulator.faults.add("missing_scope", path="/linode/instances", scope="linodes*")
    looked = voc_train("reap")
    assert looked.code == 1
    assert "Could not look after every instance" in looked.words
    assert "among what could be seen" in looked.words


def test_a_refusal_ends_with_an_object_too(voc_train: VocTrain, simulator: Simulator) -> None:
    simulator.faults.add("expired_token")
    for command in (("plan",), ("smoke", "--yes"), ("reap",)):
        refused = voc_train(*command, "--json")
        said = json.loads(refused.out.splitlines()[-1])
        assert "token" in said["message"]
        assert refused.code


def test_nobody_to_ask_is_no_yes(
    simulator: Simulator, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start("smoke", "--no-reaper")
    _, said = process.communicate("", timeout=120)
    assert (process.returncode, "--yes" in said) == (2, True), said
    assert not simulator.left()


def test_an_archive_that_is_not_here_is_refused_before_the_question(
    voc_train: VocTrain, simulator: Simulator, tmp_path: Path
) -> None:
    for route in ("bucket", "volume"):
        arguments = ("--archive", tmp_path / "no.tar", "--no-reaper", "--yes", "--route", route)
        refused = voc_train("run", "linode", *arguments)
        assert refused.code == 2
        assert "no.tar does not exist" in refused.err
    assert not simulator.left()


def test_who_names_no_plan_gets_about_what_is_shown_first(
    voc_train: VocTrain, simulator: Simulator
) -> None:
    offers = json.loads(voc_train("plan", "--json", "--budget", "100").out)["offers"]
    prices = [offer["dollars_per_hour"] for offer in offers]
    assert max(prices) <= 2.1 * min(prices)
    named = json.loads(voc_train("plan", "--json", "--plan", "g2-gpu-rtx4000a4-s").out)["offers"]
    assert {offer["plan"] for offer in named} == {"g2-gpu-rtx4000a4-s"}


def test_a_simulators_time_is_no_time_at_the_real_linode(
    voc_train: VocTrain, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LINODE_URL")
    refused = voc_train("plan")
    assert (refused.code, "VOC_TRAIN_CLOCK" in refused.err) == (2, True)
    monkeypatch.setenv("VOC_TRAIN_CLOCK", "soon@fast")
    refused = voc_train("plan")
    assert (refused.code, "set by a simulator" in refused.err) == (2, True)


@pytest.mark.parametrize(
    "network", ["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "::/0", "2000::/3", "::ffff:0.0.0.0/96"]
)
def test_nearly_everybody_is_no_network(
    voc_train: VocTrain, simulator: Simulator, network: str
) -> None:
    refused = voc_train("plan", "--ssh-from", network)
    assert (refused.code, "nearly everybody" in refused.err) == (2, True)
