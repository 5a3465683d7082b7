"""Damaged objects are noticed and named; they hide nothing, and keep nothing from being deleted."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from agents import job_spec, put_spec, run_agent
from damage import damaged
from infra.clock import Clock
from infra.failure import Cause, Failure
from infra.heartbeat import Pulse
from infra.integrity import sealed
from infra.intents import Creation, End, Intent, Intents
from infra.linode import Linode
from infra.mirror import Mirror
from infra.ownership import label, tags
from infra.protocol import Heartbeat, JobSpec, Result, now, run_key
from infra.provider import FirewallOrder, KeyOrder, Kind
from infra.reaper import reap
from infra.reaper_report import ReaperReport
from infra.receipt import Receipt
from infra.rental import Rental
from infra.simulator import Simulator
from infra.stores import Store
from stepped_clock import SteppedDays

RUN, OTHER_RUN = "261121-4k2ra", "261121-0ther"
_TIME = now()
_LEASE = timedelta(hours=2)
Damage = Callable[[bytes], bytes]

_OBJECTS = {
    "spec.json": job_spec("pass"),
    "heartbeat.json": Heartbeat(time=_TIME, state="running", progress={"step": 3}),
    "result.json": Result(exit_code=0, cause=None, message="done", started=_TIME, ended=_TIME),
    "receipt.json": Receipt(run_id=RUN, time=_TIME, lines=(), dollars=1.04),
    "intents/key-x.json": Intent(kind=Kind.KEY, label="x", time=_TIME, until=_TIME),
    "intents/key-x.created.json": Creation(id=4711, created=_TIME),
    "intents/key-x.gone.json": End(time=_TIME, said="no listing shows it"),
    "reaper.json": ReaperReport(time=_TIME, deletes=True),
}


@damaged
@pytest.mark.parametrize("name", _OBJECTS)
def test_a_damaged_object_is_named(store: Store, name: str, damage: Damage) -> None:
    written = _OBJECTS[name]
    store.write(name, written)
    assert store.read(name, type(written)) == written
    store.put(name, damage(store.get(name) or b""))
    with pytest.raises(Failure, match=f"{name} in .* is damaged; delete it") as caught:
        store.read(name, type(written))
    assert caught.value.cause is Cause.CORRUPT
    assert store.read_whole(name, type(written)) is None


def test_an_object_in_anothers_place_is_damaged(store: Store) -> None:
    """Two of one kind, so that it parses."""
    for number in (1, 2):
        store.write(f"runs/{number}/spec.json", job_spec(f"print({number})"))
    store.put("runs/1/spec.json", store.get("runs/2/spec.json") or b"")
    with pytest.raises(Failure, match="runs/1/spec.json"):
        store.read("runs/1/spec.json", JobSpec)


def test_what_other_code_wrote_without_a_seal_is_read(store: Store) -> None:
    spec = job_spec("pass")
    store.put("spec.json", spec.model_dump_json().encode())
    assert store.read("spec.json", JobSpec) == spec
    assert json.loads(sealed("k", b'{\n "a": 1\n}'))["a"] == 1  # JSON, for other readers


@damaged
def test_an_input_that_a_reboot_damaged_is_fetched_again(
    store: Store, tmp_path: Path, damage: Damage
) -> None:
    store.put("datasets/abc/0.tar", b"samples")
    shard = {"key": "datasets/abc/0.tar", "path": "dataset/0.tar", "size": 7}
    code = "print(open('dataset/0.tar').read())"
    put_spec(store, code, inputs=[shard | {"sha256": sha256(b"samples").hexdigest()}])
    there = tmp_path / "job/dataset/0.tar"
    there.parent.mkdir(parents=True)
    there.write_bytes(damage(b"samples"))
    assert run_agent(store, tmp_path / "job").cause is None
    assert there.read_bytes() == b"samples"


@damaged
@pytest.mark.parametrize("name", ["blob", "manifest.json"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    store: Store, tmp_path: Path, name: str, damage: Damage
) -> None:
    for step in ("1", "2"):
        blob = f"weights of {step}".encode()
        manifest = json.dumps({"sha256": sha256(blob).hexdigest()}).encode()
        store.put(f"runs/r/checkpoints/{step}/blob", blob)
        store.put(f"runs/r/checkpoints/{step}/manifest.json", manifest)
    key = f"runs/r/checkpoints/2/{name}"
    store.put(key, damage(store.get(key) or b""))
    Mirror(store, "r", tmp_path).restore()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]


def test_a_manifest_that_is_no_object_verifies_nothing(store: Store, tmp_path: Path) -> None:
    store.put("runs/r/checkpoints/1/blob", b"weights")
    store.put("runs/r/checkpoints/1/manifest.json", b'["sha256"]')
    Mirror(store, "r", tmp_path).restore()
    assert not list((tmp_path / "checkpoints").iterdir())


def test_progress_that_is_no_object_stops_no_heart(store: Store, tmp_path: Path) -> None:
    (tmp_path / "progress.json").write_text("3")
    Pulse(store, "r", tmp_path / "progress.json", 1).beat()
    assert store.read("runs/r/heartbeat.json", Heartbeat)


class TestNotes:
    """The notes of a run that rents, in front of a simulated account."""

    @pytest.fixture
    def clock(self) -> Clock:
        return SteppedDays(start=_TIME.timestamp() // 1)

    @pytest.fixture
    def simulator(self, tmp_path: Path, clock: Clock) -> Iterator[Simulator]:
        with Simulator(tmp_path / "simulator", clock=clock, machines=False) as simulator:
            yield simulator
            assert not simulator.touched

    @pytest.fixture
    def provider(self, simulator: Simulator, clock: Clock) -> Linode:
        return Linode(simulator.token, simulator.url, clock=clock)

    def _rented(self, provider: Linode, store: Store, clock: Clock, run: str = RUN) -> Rental:
        rental = Rental(provider, store, run, clock=clock, say=lambda _: None)
        until = clock.now() + _LEASE
        wall = FirewallOrder(label(run, "f"), tags(run, until), ("192.0.2.1/32",))
        rental.create(wall, until=until)
        key = KeyOrder(label(run, "k"), "photos", "https://us-ord-1.linodeobjects.com")
        rental.create(key, until=until)
        return rental

    @damaged
    @pytest.mark.parametrize("kind", [Kind.FIREWALL, Kind.KEY])
    @pytest.mark.parametrize("note", ["", ".created"])
    def test_a_damaged_note_keeps_no_tear_down_from_deleting(
        self,
        provider: Linode,
        simulator: Simulator,
        store: Store,
        clock: Clock,
        kind: Kind,
        note: str,
        damage: Damage,
    ) -> None:
        self._rented(provider, store, clock)
        name = label(RUN, "f" if kind is Kind.FIREWALL else "k")
        key = run_key(RUN, "intents", f"{kind}-{name}{note}.json")
        store.put(key, damage(store.get(key) or b""))
        Rental(provider, store, RUN, clock=clock, say=lambda _: None).tear_down()
        assert not simulator.left()

    @damaged
    def test_a_damaged_end_is_proven_again(
        self, provider: Linode, simulator: Simulator, store: Store, clock: Clock, damage: Damage
    ) -> None:
        self._rented(provider, store, clock).tear_down()
        key = run_key(RUN, "intents", f"firewall-{label(RUN, 'f')}.gone.json")
        store.put(key, damage(store.get(key) or b""))
        assert not Rental(provider, store, RUN, clock=clock).tear_down().leaked

    @damaged
    def test_nothing_more_is_rented_when_a_note_of_what_was_spent_is_damaged(
        self, provider: Linode, store: Store, clock: Clock, simulator: Simulator, damage: Damage
    ) -> None:
        self._rented(provider, store, clock)
        key = run_key(RUN, "intents", f"firewall-{label(RUN, 'f')}.json")
        store.put(key, damage(store.get(key) or b""))
        again = Rental(provider, store, RUN, clock=clock, say=lambda _: None)
        with pytest.raises(Failure, match=f"{label(RUN, 'f')} .*damaged.* start another") as caught:
            again.committed()
        assert caught.value.cause is Cause.CORRUPT

    def test_whose_a_key_is_cannot_be_guessed(
        self, provider: Linode, store: Store, clock: Clock, simulator: Simulator
    ) -> None:
        """Without its intent and its id, a key of that label may be somebody else's."""
        simulator.add_foreign("key", label(RUN, "k"))
        store.put(run_key(RUN, "intents", f"key-{label(RUN, 'k')}.json"), b"")
        with pytest.raises(Failure, match="damaged") as caught:
            Rental(provider, store, RUN, clock=clock, say=lambda _: None).tear_down()
        assert caught.value.cause is Cause.LEAKED

    @damaged
    def test_one_runs_damage_hides_nothing_else_from_the_reaper(
        self, provider: Linode, store: Store, clock: Clock, simulator: Simulator, damage: Damage
    ) -> None:
        for run in (RUN, OTHER_RUN):
            self._rented(provider, store, clock, run)
        for entry in [*store.list(run_key(RUN, "intents"))]:
            if "/key-" not in entry.key:
                store.put(entry.key, damage(store.get(entry.key) or b""))
        clock.sleep(_LEASE.total_seconds())
        for _ in range(3):
            reap(provider, store, clock, delete=True, say=lambda _: None)
        assert not simulator.left()

    def test_a_file_of_somebody_elses_among_the_notes_is_nothing(self, store: Store) -> None:
        store.put(run_key(RUN, "intents", "read.me"), b"hello")
        assert Intents.load(store, RUN).entries() == []
