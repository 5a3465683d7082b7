"""A training that its deadline ends: what it learned until then comes home all the same."""

import json
from pathlib import Path

from pipeline.sample_archive import SAMPLE_CLASSES
from rentals import voc_train
from servers.prefect import PrefectServer


def test_what_was_learned_until_the_deadline_is_fetched(
    archive: Path, home: Path, prefect: PrefectServer
) -> None:
    done = voc_train(
        [
            *("run", "local", "--archive", str(archive), "--classes", ",".join(SAMPLE_CLASSES)),
            *("--recipe", "tiny", "--set", "epochs=100000", "--set", "width=1"),
            *("--set", "depth=1", "--workers", "0", "--wandb", "disabled", "--json"),
            *("--limit", "train_hours=0.006"),
        ],
        {"PREFECT_API_URL": prefect.api},
        code=1,
    )
    ended = json.loads(done.stdout.splitlines()[-1])
    assert ended["cause"] == "DEADLINE"
    checkpoint = home / "checkpoints" / ended["run_id"] / "checkpoint.pt"
    assert str(checkpoint) in ended["message"]
    assert checkpoint.exists()
