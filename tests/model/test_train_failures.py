"""Training that goes wrong: a cause, a sentence, an exit code, and nothing half done."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tiny import run_main, write_job


def failure(job: Path) -> dict[str, str]:
    said: dict[str, str] = json.loads((job / "out" / "failure.json").read_bytes())
    return said


def test_a_loss_that_is_no_number_fails_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tmp_path / "job", lr=10)
    monkeypatch.setattr(
        "model.job.build_loss",
        lambda *_, **__: lambda logits, target: logits.float().sum() * float("nan"),
    )
    assert run_main(monkeypatch, job) == 1
    said = failure(job)
    assert said["cause"] == "USER_ERROR"
    assert "The loss is nan at step 1" in said["message"]
    assert "(--set lr=1)" in said["message"]
    assert capsys.readouterr().err.strip() == said["message"]
    assert not list((job / "out").glob("checkpoints/*"))


def test_a_failure_is_forgotten_when_the_next_attempt_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write_job(tmp_path / "job", epochs=1)
    assert run_main(monkeypatch, job, "--device", "nonsense") == 2
    assert failure(job)["cause"] == "BAD_INPUT"
    assert run_main(monkeypatch, job) == 0
    assert not (job / "out" / "failure.json").exists()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda job: (job / "recipe.json").unlink(), "recipe.json"),
        (lambda job: (job / "recipe.json").write_text('{"name": "x", "wide": 3}'), "recipe.json"),
        (lambda job: (job / "recipe.json").write_text("{"), "recipe.json"),
        (lambda job: shutil.rmtree(job / "dataset"), "manifest.json"),
        (lambda job: (job / "dataset" / "index.jsonl").write_text("{}\n"), "damaged"),
        (lambda job: (job / "dataset" / "shards" / "00000.tar").write_bytes(b""), "00000.tar"),
    ],
    ids=["no recipe", "unknown setting", "no json", "no dataset", "bad index", "empty shard"],
)
def test_wrong_input_is_2_and_a_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], object],
    said: str,
) -> None:
    job = write_job(tmp_path / "job", epochs=1)
    spoil(job)
    assert run_main(monkeypatch, job) == 2
    assert failure(job)["cause"] == "BAD_INPUT"
    message = failure(job)["message"]
    assert said in message
    assert capsys.readouterr().err.strip() == message


def test_a_folder_that_is_not_there_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_main(monkeypatch, tmp_path / "nowhere") == 2
    assert not (tmp_path / "nowhere").exists()
