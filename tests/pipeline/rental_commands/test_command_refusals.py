"""What the commands refuse, in a sentence, before anything is created."""

import json
from pathlib import Path

import pytest

from commands import VocTrain
from infra.simulator import Simulator


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


def test_a_refusal_ends_with_an_object_too(voc_train: VocTrain, simulator: Simulator) -> None:
    simulator.faults.add("expired_token")
    for command in (("plan",), ("smoke", "--yes"), ("reap",)):
        refused = voc_train(*command, "--json")
        said = json.loads(refused.out.splitlines()[-1])
        assert "token" in said["message"]
        assert refused.code


def test_an_archive_that_is_not_here_is_refused_before_the_question(
    voc_train: VocTrain, simulator: Simulator, tmp_path: Path
) -> None:
    for route in ("bucket", "volume"):
        arguments = ("--archive", tmp_path / "no.tar", "--no-reaper", "--yes", "--route", route)
        refused = voc_train("run", "linode", *arguments)
        assert refused.code == 2
        assert "no.tar does not exist" in refused.err
    assert not simulator.left()


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
