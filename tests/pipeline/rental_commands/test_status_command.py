"""`voc-train status` from a computer that has little."""

import os

import pytest

from commands import VocTrain
from infra.simulator import Simulator


def test_a_token_alone_will_do(
    voc_train: VocTrain, simulator: Simulator, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []

    def look(*_: object, **__: object) -> None:
        used.append(os.environ["AWS_ACCESS_KEY_ID"])

    monkeypatch.setattr("pipeline.runs.print_runs", look)
    said = voc_train("status", "--store", bucket)
    assert said.code == 0, said.err
    assert len(used) == 1
    assert [thing.kind for thing in simulator.left()] == ["bucket"]


def test_without_a_token_it_is_the_key_that_is_missed(
    voc_train: VocTrain, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LINODE_TOKEN")
    said = voc_train("status", "--store", "s3://photos/voc-train")
    assert said.code == 2
    assert "There is no key for s3://photos/voc-train" in said.err
