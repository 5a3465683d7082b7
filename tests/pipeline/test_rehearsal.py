"""What a rehearsal is not: a rental that somebody pays for."""

import os
from pathlib import Path
from unittest import mock

import pytest

from infra.stores import Store
from pipeline.parameters import RentalTerms
from pipeline.plan import make_plan
from pipeline.rehearsal import rehearsal
from sandbox import require_sandbox


def test_its_dollars_are_of_no_month(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_sandbox()
    monkeypatch.setenv("VOC_TRAIN_MONTHLY_BUDGET", "1")
    store = Store.open(str(tmp_path / "store"))
    with mock.patch.dict(os.environ), rehearsal(store, 60):
        plan = make_plan(RentalTerms(), 8, store)
    assert plan.worst_case > 1
    assert plan.monthly is None
