"""A prune of a real bucket, whose unfinished uploads no listing shows."""

import uuid
from datetime import datetime, timedelta

import pytest

from infra.protocol import now
from infra.stores import Store
from pipeline.holdings import survey
from pipeline.pruning import Terms, prune, what_may_go
from servers.rgw import RGW
from stored import keys, put_archive, put_dataset, put_decision, put_run


def _in_a_week() -> datetime:
    return now() + timedelta(days=8)


def test_runs_data_and_broken_uploads_leave_a_bucket(
    rgw: RGW, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in rgw.environment().items():
        monkeypatch.setenv(variable, value)
    name = f"prune-{uuid.uuid4().hex[:12]}"
    rgw.create_bucket(name)
    client, store = rgw.client(), Store.open(f"s3://{name}/voc")
    for days, letter in ((20, "a"), (10, "b")):
        put_archive(store, letter)
        put_dataset(store, f"d{letter}", letter)
        put_run(store, f"run-{letter}", days=days, dataset=f"d{letter}", archives=letter)
    put_decision(store, 1, "run-b", "db")
    for key in ("voc/datasets/da/shards/00002.tar", "backup.tar"):
        upload = client.create_multipart_upload(Bucket=name, Key=key)["UploadId"]
        client.upload_part(Bucket=name, Key=key, UploadId=upload, PartNumber=1, Body=b"part")
    # All of it is old: by the clock of this computer, since a server's cannot be set.
    monkeypatch.setattr("pipeline.holdings.now", _in_a_week)
    for module in ("holdings", "pruning"):
        monkeypatch.setattr(f"pipeline.{module}.UNFINISHED_AFTER", timedelta(0))

    held = survey(store)
    plan = what_may_go(held, Terms(keep=0))
    assert [(i.name, i.size) for i in plan.items if i.kind == "leftover"] == [
        ("voc/datasets/da/shards/00002.tar", len(b"part"))
    ]
    prune(store, plan, held, Terms(keep=0))

    assert keys(store, "runs/run-a") == {
        f"runs/run-a/{name}" for name in ("run.json", "receipt.json", "pruned.json")
    }
    assert len(keys(store, "runs/run-b")) == 8
    assert {key.split("/")[1] for key in keys(store, "datasets")} == {"db"}
    assert keys(store, "archives") == {
        f"archives/{'b' * 64}.tar",
        f"archives/{'b' * 64}.index.jsonl",
        "archives/urls/b.json",
    }
    left = client.list_multipart_uploads(Bucket=name)["Uploads"]
    assert [upload["Key"] for upload in left] == ["backup.tar"]
    assert not what_may_go(survey(store), Terms(keep=0)).items
