"""A computer with nothing but a token makes itself a key for the bucket, and takes it back."""

import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest

from infra.clock import Clock
from infra.failure import Cause, Failure
from infra.linode import Linode
from infra.ownership import label
from infra.provider import KeyOrder, Kind
from infra.reaper import reap
from infra.rental import Rental
from infra.simulator import Simulator
from infra.simulator.faults import Effect
from infra.stores import Store
from infra.visit import access_to, visitors_label

RUN = "261121-4k2ra"
SERVER = "https://us-ord-1.linodeobjects.com"


@pytest.fixture
def visitor(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Its environment, and a bucket."""
    for name, value in simulator.environment().items():
        monkeypatch.setenv(name, value)
    made = httpx.post(
        f"{simulator.url}/object-storage/buckets",
        json={"label": "photos", "region": "us-ord"},
        headers={"Authorization": f"Bearer {simulator.token}"},
    )
    assert made.status_code == 200
    yield
    assert not [name for name in os.environ if name.startswith("AWS_ACCESS")]


def keys(simulator: Simulator) -> list[str]:
    return [thing.label for thing in simulator.left() if thing.kind == "key"]


def test_it_has_a_key_while_it_looks(visitor: None, simulator: Simulator, clock: Clock) -> None:
    with access_to("s3://photos/voc-train", RUN, clock):
        (name,) = keys(simulator)
        assert name.startswith(f"voc-train-{RUN}-r")
        assert os.environ["AWS_ACCESS_KEY_ID"]
        assert os.environ["AWS_SECRET_ACCESS_KEY"]
        assert os.environ["AWS_ENDPOINT_URL"] == SERVER
        Store.open("s3://photos/voc-train")
    assert keys(simulator) == []
    assert "AWS_ENDPOINT_URL" not in os.environ


@pytest.mark.parametrize("url", ["s3://photos/voc-train", "file:///a/folder"])
def test_whoever_has_a_key_or_needs_none_gets_none(
    url: str, simulator: Simulator, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    if url.startswith("s3"):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    with access_to(url, RUN, clock):
        assert keys(simulator) == []
        assert os.environ.get("AWS_ACCESS_KEY_ID", "mine") == "mine"


def test_it_is_taken_back_when_the_visit_fails(
    visitor: None, simulator: Simulator, clock: Clock
) -> None:
    with pytest.raises(ZeroDivisionError), access_to("s3://photos", RUN, clock):
        raise ZeroDivisionError
    assert keys(simulator) == []


def test_what_ended_the_visit_is_said_though_the_key_cannot_be_taken_back(
    visitor: None, simulator: Simulator, clock: Clock
) -> None:
    simulator.faults.add(Effect.SERVER_ERROR, method="DELETE", path="/object-storage/keys/*")
    with pytest.raises(ZeroDivisionError), access_to("s3://photos", RUN, clock):
        raise ZeroDivisionError
    with pytest.raises(Failure, match="delete the key"), access_to("s3://photos", RUN, clock):
        pass


@pytest.mark.parametrize("effect", [Effect.ACTED_502, Effect.SERVER_ERROR])
def test_a_lost_answer_leaves_no_key_behind(
    effect: Effect, visitor: None, simulator: Simulator, clock: Clock
) -> None:
    simulator.faults.add(effect, method="POST", path="/object-storage/keys", times=1)
    with access_to("s3://photos", RUN, clock):
        assert len(keys(simulator)) == 1
    assert keys(simulator) == []


def test_without_any_clear_answer_it_says_so(
    visitor: None, simulator: Simulator, clock: Clock
) -> None:
    simulator.faults.add(Effect.ACTED_502, method="POST", path="/object-storage/keys")
    with pytest.raises(Failure) as caught, access_to("s3://photos", RUN, clock):
        pass
    assert caught.value.cause is Cause.PROVIDER
    assert keys(simulator) == []


def test_a_bucket_of_somebody_else_is_named(visitor: None, clock: Clock) -> None:
    with pytest.raises(Failure, match="no bucket other"), access_to("s3://other", RUN, clock):
        pass


def left_behind(provider: Linode, minted: datetime, bucket: str = "photos") -> None:
    """A key as a killed visitor leaves it."""
    provider.create(KeyOrder(visitors_label(RUN, minted), bucket, SERVER))


@pytest.fixture
def bucket(tmp_path: Path) -> Store:
    """The visitor's store, as somebody sees it who has a key of another kind."""
    return Store("s3://photos/voc-train", tmp_path)


def test_it_stays_for_as_long_as_the_runs_lease(
    provider: Linode, clock: Clock, simulator: Simulator, bucket: Store
) -> None:
    rental = Rental(provider, bucket, RUN, clock=clock, say=lambda line: None)
    until = clock.now() + timedelta(hours=2)
    rental.create(KeyOrder(label(RUN, "k"), "photos", SERVER), until=until)
    left_behind(provider, clock.now() - timedelta(days=3))
    reap(provider, bucket, clock, delete=True)
    assert len(keys(simulator)) == 2
    clock.sleep(timedelta(hours=2).total_seconds())
    reap(provider, bucket, clock, delete=True)
    assert keys(simulator) == []


def test_whoever_goes_on_with_a_run_whose_lease_is_over_keeps_it(
    visitor: None, provider: Linode, clock: Clock, simulator: Simulator, bucket: Store
) -> None:
    rental = Rental(provider, bucket, RUN, clock=clock, say=lambda line: None)
    until = clock.now() - timedelta(hours=1)
    rental.create(KeyOrder(label(RUN, "k"), "photos", SERVER), until=until)
    rental.tear_down()
    with access_to("s3://photos/voc-train", RUN, clock):
        reap(provider, bucket, clock, delete=True)
        assert len(keys(simulator)) == 1


@pytest.mark.parametrize(("days", "left"), [(-1, 1), (0, 1), (1, 1), (3, 0), (400, 0)])
def test_the_reaper_deletes_what_a_killed_visitor_left_days_ago(
    days: int, left: int, provider: Linode, simulator: Simulator, bucket: Store
) -> None:
    """As its label says: keys have no date."""
    today = Clock()
    left_behind(provider, today.now() - timedelta(days=days))
    reap(provider, bucket, today, delete=True)
    assert len(keys(simulator)) == left


def test_no_other_key_is_taken_for_a_visitors(
    provider: Linode, simulator: Simulator, clock: Clock, tmp_path: Path
) -> None:
    store = Store("s3://photos/voc-train", tmp_path)
    left_behind(provider, clock.now(), bucket="somebody-elses")
    simulator.add_foreign(Kind.KEY, visitors_label(RUN, clock.now()))  # which opens everything
    provider.create(KeyOrder(label(RUN, "k", 9), "photos", SERVER))
    reap(provider, store, clock, delete=True, run_id=RUN)
    assert len(keys(simulator)) == 2
    assert simulator.touched == []
