"""`run.json`: how a run stands, in the words of whoever drives it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from infra.claims import Claim
from infra.failure import Cause, Failure
from infra.protocol import now, run_key
from model.errors import InputError
from model.manifest import Manifest
from pipeline.parameters import Parameters
from pipeline.run import Run
from pipeline.run_record import recorded_run, recorded_runs


@pytest.fixture
def run(tmp_path: Path) -> Run:
    parameters = Parameters(archives=("a.tar",), store=str(tmp_path / "store"))
    return Run(parameters, [])


def state(run: Run) -> tuple[str, Cause | None]:
    record = recorded_run(run.store, run.run_id)
    return record.state, record.cause


def end(run: Run, how: Exception, meanwhile: Callable[[], object]) -> None:
    with run.recorded():
        meanwhile()
        raise how


def test_a_failure_is_recorded_with_its_cause(run: Run) -> None:
    seen: list[object] = []
    with pytest.raises(Failure):
        end(run, Failure(Cause.STALLED, "Not heard."), lambda: seen.append(state(run)))
    assert seen == [("running", None)]
    assert state(run) == ("failed", Cause.STALLED)


def test_how_it_ended_for_one_who_was_replaced_is_not_recorded(run: Run) -> None:
    other = Claim(owner="other", where="there", time=now(), rank=2)
    key = run_key(run.run_id, "claims", "other.json")
    with pytest.raises(ZeroDivisionError):
        end(run, ZeroDivisionError(), lambda: run.store.write(key, other))
    assert state(run) == ("running", None)


def test_what_was_prepared_by_one_who_was_replaced_is_not_recorded(run: Run) -> None:
    other = Claim(owner="other", where="there", time=now(), rank=2, withdrawn=True)
    key = run_key(run.run_id, "claims", "other.json")

    with run.recorded():
        run.store.write(key, other)
        with pytest.raises(Failure) as caught:
            run.prepared("d", {})
        run.store.delete(key)
    assert caught.value.cause is Cause.CLAIMED
    assert recorded_run(run.store, run.run_id).dataset is None


def test_a_net_that_has_learned_is_of_the_code_that_it_began_with(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def goes_on(code: str, digest: str = "d") -> str:
        monkeypatch.setattr("model.provenance.code_version", lambda: code)
        later = Run(run.parameters, [], earlier=recorded_run(run.store, run.run_id))
        dataset = Manifest(
            key="k", digest=digest, classes=(), counts={}, pixels={}, archives=(), max_side=None,
            shards=(), index_sha256="", left_out={},
        )  # fmt: skip
        with later.recorded():
            later.prepared(dataset, {})
        inputs = recorded_run(run.store, run.run_id).inputs
        assert inputs
        return inputs.code

    with run.recorded():
        pass
    assert goes_on("first") == "first"
    assert goes_on("mended") == "mended"  # nothing was learned before
    run.store.put(run_key(run.run_id, "checkpoints", "00000003", "checkpoint.pt"), b"weights")
    assert goes_on("third") == "mended"
    begun_with = recorded_run(run.store, run.run_id).inputs
    with pytest.raises(InputError, match="dataset: was d, is another"):
        goes_on("third", digest="another")
    assert recorded_run(run.store, run.run_id).inputs == begun_with


def test_a_record_that_names_another_run_is_none(run: Run) -> None:
    with run.recorded():
        pass
    record = recorded_run(run.store, run.run_id)
    other = record.model_copy(update={"run_id": "../../../elsewhere"})
    run.store.write(run_key(run.run_id, "run.json"), other)
    with pytest.raises(Failure, match="is not the record of run") as caught:
        recorded_run(run.store, run.run_id)
    assert caught.value.cause is Cause.CORRUPT
    assert recorded_runs(run.store) == []
