"""The smallest rental proves the way from here to a machine and from there to the store."""

import re
import uuid
from pathlib import Path

import pytest

from infra.clock import Clock
from infra.failure import Cause, Failure
from infra.lease import Patience
from infra.linode import Linode
from infra.provider import Refused
from infra.rental import Rental
from infra.simulator import Simulator
from infra.smoke import HOURS, smoke
from infra.stores import Store
from sandbox import require_sandbox
from servers.rgw import RGW

RUN = "261121-4k2ra"


@pytest.fixture
def clock() -> Clock:
    return Clock.fast(60)


def _simulator(folder: Path, clock: Clock, **more: object) -> Simulator:
    require_sandbox()
    return Simulator(folder / "simulator", clock=clock, **more)  # type: ignore[arg-type]


@pytest.fixture
def bucket(rgw: RGW, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in rgw.environment().items():
        monkeypatch.setenv(name, value)
    return rgw.create_bucket(f"smoke-{uuid.uuid4().hex[:12]}")


def _rental(simulator: Simulator, store: Store) -> Rental:
    given = simulator.environment()
    provider = Linode(
        simulator.token,
        simulator.url,
        clock=simulator.clock,
        ssh_port=int(given["VOC_TRAIN_SSH_PORT"]),
        ssh_user=given["VOC_TRAIN_SSH_USER"],
    )
    patience = Patience().in_time_of(simulator.clock)
    return Rental(
        provider, store, RUN, clock=simulator.clock, patience=patience, say=lambda line: None
    )


def _smoke(rental: Rental, store: Store, *, bucket: str | None = None, endpoint: str = "") -> None:
    offers = rental.provider.offers(plan="g6-nanode-1", region="us-ord")
    budget = HOURS * offers[0].dollars_per_hour
    smoke(
        rental,
        store,
        offers,
        budget=budget,
        ssh_from=("127.0.0.0/8",),
        bucket=bucket,
        endpoint=endpoint,
    )


def test_a_machine_uses_a_folder_and_is_gone(store: Store, tmp_path: Path, clock: Clock) -> None:
    Path(tmp_path / "store").mkdir()
    with _simulator(tmp_path, clock, shares=(tmp_path / "store",)) as simulator:
        rental = _rental(simulator, store)
        _smoke(rental, store)
        receipt = rental.tear_down()

        steps = [phase.name for phase in receipt.phases]
        assert steps == ["created", "booting", "set-up", "proven", "gone"]
        assert simulator.left() == []
        assert receipt.dollars == sum(line.dollars for line in simulator.bill()) == 0.0075
    left = {entry.key.split("/")[2] for entry in store.list(f"runs/{RUN}")}
    assert left == {"intents", "receipt.json"}


def test_a_folder_that_the_machine_does_not_see_is_no_proof(
    store: Store, tmp_path: Path, clock: Clock
) -> None:
    with _simulator(tmp_path, clock) as simulator:
        rental = _rental(simulator, store)
        with pytest.raises(Failure, match="does not show here") as caught:
            _smoke(rental, store)
        assert caught.value.cause is Cause.STORE
        rental.tear_down()
        assert simulator.left() == []


def test_a_machine_uses_a_bucket_with_a_key_of_its_own(
    rgw: RGW, bucket: str, tmp_path: Path, clock: Clock
) -> None:
    store = Store.open(f"s3://{bucket}/voc")
    minted: list[str] = []
    with _simulator(tmp_path, clock, object_storage=rgw.gateway()) as simulator:
        rental = _rental(simulator, store)
        _smoke(rental, store, bucket=bucket, endpoint=rgw.endpoint)
        minted = [thing.access_key for thing in simulator.left() if thing.kind == "key"]
        receipt = rental.tear_down()
        assert simulator.left() == []
    assert {line.kind for line in receipt.lines} == {"instance", "firewall", "key", "stackscript"}
    assert len(minted) == 1
    everything = b"".join(store.get(entry.key) or b"" for entry in store.list(""))
    assert minted[0].encode() not in everything
    assert re.search(rb"voc-train-261121-4k2ra-k1", everything)


def test_a_key_that_does_not_open_the_store_is_found(
    rgw: RGW, bucket: str, tmp_path: Path, clock: Clock
) -> None:
    another = rgw.create_bucket(f"another-{uuid.uuid4().hex[:12]}")
    store = Store.open(f"s3://{bucket}/voc")
    with _simulator(tmp_path, clock, object_storage=rgw.gateway()) as simulator:
        rental = _rental(simulator, store)
        with pytest.raises(Failure, match=f"The machine cannot use s3://{bucket}") as caught:
            _smoke(rental, store, bucket=another, endpoint=rgw.endpoint)
        assert caught.value.cause is Cause.STORE
        rental.tear_down()
        assert simulator.left() == []


def test_a_bucket_that_is_missing_is_refused_before_a_machine_is_rented(
    rgw: RGW, bucket: str, tmp_path: Path, clock: Clock
) -> None:
    store = Store.open(f"s3://{bucket}")
    with Simulator(
        tmp_path / "simulator", clock=clock, machines=False, object_storage=rgw.gateway()
    ) as simulator:
        rental = _rental(simulator, store)
        with pytest.raises(Refused, match="missing-bucket"):
            _smoke(rental, store, bucket="missing-bucket", endpoint=rgw.endpoint)
        assert simulator.bill() == []
        rental.tear_down()
        assert simulator.left() == []
