"""Shards that come and go: the same batches and weights as from a disk that holds them all."""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.failure import Cause, Failure
from model import checkpoint
from model.errors import InputError, TrainingError
from model.job import Job
from model.loader import Batch, training_batches
from model.manifest import Manifest, Shard
from model.order import Draw, WindowedOrder
from model.stream import window_of
from model.train import train
from supplied import Watched, build, streamed_job, supplied, tenth_of
from tiny import RECIPE, journal, steps, weights_digest, write_recipe


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    folder = tmp_path_factory.mktemp("built") / "dataset"
    return folder, build(folder)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody brings is soon said to be missing."""
    monkeypatch.setattr("model.stream._PATIENCE", 60.0)


@pytest.fixture
def manifest(built: tuple[Path, Manifest]) -> Manifest:
    return built[1]


@pytest.fixture
def make(built: tuple[Path, Manifest], tmp_path: Path) -> Callable[..., Path]:
    def make(**settings: Any) -> Path:
        return streamed_job(*built, tmp_path / "job", **settings)

    return make


@pytest.fixture
def local(built: tuple[Path, Manifest], tmp_path: Path) -> Callable[..., Path]:
    """The same job where all shards are on the disk."""

    def local(**settings: Any) -> Path:
        job = tmp_path / "local"
        job.mkdir()
        (job / "dataset").symlink_to(built[0])
        write_recipe(job, stream_gb=tenth_of(built[1]) / 1e9, **settings)
        return job

    return local


@pytest.fixture
def store(built: tuple[Path, Manifest], tmp_path: Path) -> Watched:
    return Watched(built[0], tmp_path / "job")


def batches(folder: Path, workers: int = 0, start: int = 0) -> Iterator[Batch]:
    job = Job.open(folder, "r", "cpu")
    return training_batches(job.train, job.recipe, job.order, workers, start=start)


def equal(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(one.images, two.images) and torch.equal(one.targets, two.targets)
        for one, two in zip(left, right, strict=True)
    )


def test_an_epoch_sees_every_sample_once_and_the_disk_a_tenth_of_them(
    make: Callable[..., Path], store: Watched, manifest: Manifest
) -> None:
    job = Job.open(make(epochs=2), "r", "cpu")
    draws = sorted(chain.from_iterable(job.order.batches()))
    assert draws == [Draw(epoch, position) for epoch in range(2) for position in range(136)]
    assert isinstance(job.order, WindowedOrder)

    with supplied(store, job.out.parent, manifest) as (supplier, failures):
        held = [supplier.held for _ in training_batches(job.train, job.recipe, job.order, 0)]
    assert not failures
    assert max(*held, store.most) <= tenth_of(manifest)
    assert store.most > tenth_of(manifest) / 2  # it looks ahead
    given = Counter(store.given)  # once an epoch, and those of val not at all
    assert given.keys() == {shard.name for shard in manifest.shards[:34]}
    assert max(given.values()) <= 2


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_a_local_disk_also_from_the_middle_on(
    make: Callable[..., Path],
    local: Callable[..., Path],
    store: Watched,
    manifest: Manifest,
    workers: int,
) -> None:
    wanted, job = [*batches(local())], make()
    with supplied(store, job, manifest) as (_, failures):
        found = [*batches(job, workers)]
        late = [*batches(job, workers, start=41)]
    assert not failures
    assert equal(found, wanted)
    assert equal(late, wanted[41:])
    assert store.most <= tenth_of(manifest)


def test_stopped_in_the_middle_it_goes_on_to_the_weights_of_a_local_training(
    make: Callable[..., Path], local: Callable[..., Path], store: Watched, manifest: Manifest
) -> None:
    here, job = local(epochs=1), make(epochs=1)
    assert train(here, run_id="r", device="cpu")
    with supplied(store, job, manifest):
        asked = iter([False] * 17 + [True] * 100)
        assert not train(job, run_id="r", device="cpu", stop=lambda: next(asked))
    assert 0 < max(steps(job)) < 34
    with supplied(store, job, manifest) as (_, failures):
        assert train(job, run_id="r", device="cpu", workers=2)
    assert not failures
    assert weights_digest(job) == weights_digest(here)
    assert [record["miou"] for record in journal(job, "epoch")] == [
        record["miou"] for record in journal(here, "epoch")
    ]
    assert store.most <= tenth_of(manifest)


@pytest.mark.parametrize("step", [20, 34])  # inside an epoch; at its end, which was scored
def test_a_stop_while_it_waits_keeps_what_was_learned(
    make: Callable[..., Path], store: Watched, manifest: Manifest, step: int
) -> None:
    job = make(epochs=2)
    order = Job.open(job, "r", "cpu").order
    assert isinstance(order, WindowedOrder)
    stuck = manifest.shards[order.shards_of(step)[0]].name

    class Stuck(Watched):
        refused = False

        def get_file(self, key: str, path: Path, **more: Any) -> None:
            if path.name == stuck and self.given.count(stuck) == step // 34:
                self.refused = True
                raise Failure(Cause.STORE, "The store does not answer.")
            super().get_file(key, path, **more)

    def stop() -> bool:
        scored = job / "out" / "checkpoints" / "00000034"
        return broken.refused and (step < 34 or scored.exists())

    broken = Stuck(Path(store.local_path("") or ""), job)
    with supplied(broken, job, manifest):
        assert not train(job, run_id="r", device="cpu", stop=stop)
    kept = checkpoint.newest(job / "out" / "checkpoints")
    assert kept
    assert 0 < int(kept.name) <= step
    saved = checkpoint.verified(kept)
    assert saved
    assert (saved.miou is None) == (step == 20)
    with supplied(store, job, manifest):
        assert train(job, run_id="r", device="cpu")
    assert len(journal(job, "finish")) == 1


def test_a_store_that_fails_for_a_while_is_asked_again(
    make: Callable[..., Path], store: Watched, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.on_demand._AGAIN", 0.01)

    class Shaky(Watched):
        asked = 0

        def get_file(self, key: str, path: Path, **more: Any) -> None:
            self.asked += 1
            if self.asked % 3:
                raise Failure(Cause.STORE, "The store does not answer.")
            super().get_file(key, path, **more)

    job = make(epochs=1)
    shaky = Shaky(Path(store.local_path("") or ""), job)
    with supplied(shaky, job, manifest) as (_, failures):
        assert len([*batches(job)]) == 34
    assert not failures
    assert shaky.asked > 100


def test_a_damaged_shard_is_never_trained_on(
    make: Callable[..., Path], built: tuple[Path, Manifest], tmp_path: Path
) -> None:
    folder, manifest = built
    job = make(epochs=1)
    order = Job.open(job, "r", "cpu").order
    assert isinstance(order, WindowedOrder)
    last = [*order.shards_from(order.total_steps - 1)][-1]
    for shard in manifest.shards:
        target = tmp_path / "damaged" / "shards" / shard.name
        target.parent.mkdir(parents=True, exist_ok=True)
        data = bytearray((folder / "shards" / shard.name).read_bytes())
        data[600] ^= shard.name == manifest.shards[last].name
        target.write_bytes(data)

    damaged = Watched(tmp_path / "damaged", job)
    with supplied(damaged, job, manifest) as (_, failures):
        assert not train(job, run_id="r", device="cpu", stop=lambda: bool(failures))
        assert not (job / "dataset" / "shards" / manifest.shards[last].name).exists()
    assert [failure.cause for failure in failures] == [Cause.CORRUPT]
    assert manifest.shards[last].name in str(failures[0])
    assert not journal(job, "epoch")


def test_shards_that_nobody_brings_are_named_in_the_end(
    make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.stream._PATIENCE", 0.05)
    with pytest.raises(TrainingError, match=r"shards/\d{5}.tar did not come") as caught:
        next(batches(make()))
    assert caught.value.cause == "STORE"


def test_going_on_by_another_order_is_refused(
    make: Callable[..., Path], store: Watched, manifest: Manifest
) -> None:
    job = make(epochs=1)
    with supplied(store, job, manifest):
        assert train(job, run_id="r", device="cpu")
    described = job / "dataset" / "manifest.json"
    described.unlink()
    described.write_text(manifest.model_copy(update={"key": "others"}).model_dump_json())
    with pytest.raises(InputError, match="made with another set of shards"):
        train(job, run_id="r", device="cpu")
    write_recipe(job, stream_gb=2 * tenth_of(manifest) / 1e9, epochs=1)
    with pytest.raises(InputError, match="made with another recipe"):
        train(job, run_id="r", device="cpu")


def described(counts: list[int], sizes: list[int]) -> Manifest:
    shards = tuple(Shard(name=f"{i}.tar", size=size, sha256="") for i, size in enumerate(sizes))
    return Manifest(
        key="", digest="", classes=("a", "b"), counts={"train": sum(counts)}, pixels={},
        archives=(), max_side=None, shards=shards, index_sha256="", left_out={},
    )  # fmt: skip


@settings(max_examples=300)
@given(
    # All but the last of a split are about as large.
    st.lists(st.tuples(st.integers(1, 12), st.sampled_from((9, 9, 3))), min_size=1, max_size=12),
    st.integers(8, 80),
    st.integers(1, 12),
    st.integers(0, 2**32 - 1),
)
def test_what_a_batch_needs_always_has_room(
    shards: list[tuple[int, int]], room: int, batch_size: int, seed: int
) -> None:
    """Else training would wait for a shard that waits for another to go."""
    counts, sizes = (list(of) for of in zip(*shards, strict=True))
    of = np.repeat(np.arange(len(counts)), counts)
    recipe = RECIPE.override({"batch_size": batch_size, "stream_gb": room / 1e9})
    try:
        window = window_of(described(counts, sizes), of, recipe, room)
    except InputError:
        assert room // max(sizes) < max(2, batch_size)  # as many shards as a batch has samples
        return
    order = WindowedOrder(seed, of, window, batch_size, 2)
    for step in range(order.total_steps):
        fits: list[int] = []
        for shard in order.shards_from(step):
            if shard in fits:
                continue
            if sum(sizes[one] for one in (*fits, shard)) > room:
                break
            fits.append(shard)
        assert set(order.shards_of(step)) <= set(fits)
