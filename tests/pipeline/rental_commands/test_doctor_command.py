"""`voc-train doctor` as it is typed: what would keep a rental from working, and the cure."""

import json
import re
import uuid

import pytest

from commands import VocTrain
from infra.simulator import Simulator
from servers.rgw import RGW


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
    assert "✗ machines None of the offers is free now." in said.words


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
