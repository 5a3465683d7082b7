"""Order is arithmetic: what comes when is a function of seed, epoch and position."""

import tracemalloc
from itertools import chain, pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from model.order import BatchOrder, Draw, WindowedOrder, augmentation_seed, epoch_order

SEEDS = st.integers(0, 2**32 - 1)
EPOCHS = st.integers(0, 10_000)


@given(SEEDS, EPOCHS, st.integers(1, 300))
def test_an_epoch_is_a_permutation(seed: int, epoch: int, samples: int) -> None:
    assert sorted(epoch_order(seed, epoch, samples)) == list(range(samples))


def test_order_is_the_same_on_every_computer() -> None:
    assert epoch_order(7, 3, 8).tolist() == [5, 1, 0, 3, 4, 6, 2, 7]


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(epoch_order(seed, epoch, 50)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


@given(SEEDS, st.integers(1, 40), st.integers(1, 50), st.integers(1, 5), st.data())
def test_going_on_from_any_step_yields_the_same_tail(
    seed: int, samples: int, batch_size: int, epochs: int, data: st.DataObject
) -> None:
    order = BatchOrder(seed, samples, batch_size, epochs)
    whole = list(order.batches())
    assert len(whole) == order.total_steps == epochs * order.steps_per_epoch
    start = data.draw(st.integers(0, len(whole)))
    assert list(order.batches(start)) == whole[start:]
    assert list(order.batches()) == whole  # nothing is remembered


@given(SEEDS, st.integers(1, 40), st.integers(1, 50), st.integers(1, 4))
def test_every_sample_at_most_once_an_epoch(
    seed: int, samples: int, batch_size: int, epochs: int
) -> None:
    order = BatchOrder(seed, samples, batch_size, epochs)
    draws = list(chain.from_iterable(order.batches()))
    assert len(set(draws)) == len(draws)
    assert {draw.epoch for draw in draws} == set(range(epochs))
    assert all(0 <= draw.position < samples for draw in draws)
    assert {len(batch) for batch in order.batches()} == {min(batch_size, samples)}
    assert len(draws) == epochs * (samples - samples % min(batch_size, samples))


def test_fewer_samples_than_the_batch_size_make_one_batch_an_epoch() -> None:
    batches = list(BatchOrder(0, 3, 16, 2).batches())
    assert [sorted(batch) for batch in batches] == [
        [Draw(epoch, position) for position in range(3)] for epoch in range(2)
    ]


def test_what_one_epoch_leaves_out_comes_up_in_another() -> None:
    draws = chain.from_iterable(BatchOrder(0, 5, 2, 10).batches())
    assert {draw.position for draw in draws} == set(range(5))


@given(SEEDS, EPOCHS, st.text(max_size=20))
def test_augmentation_seed_is_32_bits(seed: int, epoch: int, name: str) -> None:
    assert 0 <= augmentation_seed(seed, epoch, name) < 2**32


def test_augmentation_seed_depends_on_seed_epoch_and_id() -> None:
    seeds = {
        augmentation_seed(seed, epoch, name)
        for seed in (0, 1, 11)
        for epoch in (0, 1, 11)
        for name in ("a", "b", "1/a")
    }
    assert len(seeds) == 27
    assert augmentation_seed(0, 0, "2007_000032") == 3555348841


# A split's samples by shard: how many are in each, of shards that have any.
COUNTS = st.lists(st.integers(1, 12), min_size=1, max_size=12)


def windowed(counts: list[int], window: int, batch_size: int, epochs: int = 3) -> WindowedOrder:
    """Of shards that are numbered 0, 2, 4, …: those between belong to another split."""
    shards = np.repeat(np.arange(len(counts)) * 2, counts)
    return WindowedOrder(5, shards, window, batch_size, epochs)


@given(COUNTS, st.integers(1, 14), st.integers(1, 50), st.data())
def test_in_windows_too_every_sample_comes_at_most_once_an_epoch_from_any_step_on(
    counts: list[int], window: int, batch_size: int, data: st.DataObject
) -> None:
    order = windowed(counts, window, batch_size)
    whole = list(order.batches())
    draws = list(chain.from_iterable(whole))
    assert len(set(draws)) == len(draws) == order.total_steps * min(batch_size, sum(counts))
    assert len(draws) == 3 * (sum(counts) - sum(counts) % min(batch_size, sum(counts)))
    assert all(0 <= draw.position < sum(counts) for draw in draws)
    start = data.draw(st.integers(0, len(whole)))
    assert list(windowed(counts, window, batch_size).batches(start)) == whole[start:]


@given(COUNTS, st.integers(1, 14), st.integers(1, 50))
def test_the_shards_of_a_batch_are_those_of_its_samples(
    counts: list[int], window: int, batch_size: int
) -> None:
    order = windowed(counts, window, batch_size)
    of = np.repeat(np.arange(len(counts)) * 2, counts)
    for step, batch in enumerate(order.batches()):
        shards = {int(of[draw.position]) for draw in batch}
        assert set(order.shards_of(step)) == shards
        assert shards <= set(order.shards_from(step))
    assert list(order.shards_from(order.total_steps)) == []


def test_order_in_windows_is_the_same_on_every_computer() -> None:
    order = windowed([3, 2, 3, 2], 2, 10, epochs=2)
    assert [[draw.position for draw in batch] for batch in order.batches()] == [
        [9, 8, 2, 0, 1, 3, 5, 6, 4, 7],
        [8, 9, 3, 4, 1, 0, 2, 5, 7, 6],
    ]


def test_samples_are_mixed_within_their_window_and_differ_by_epoch() -> None:
    order = windowed([50] * 8, 4, 200, epochs=2)
    windows = [[draw.position for draw in batch] for batch in order.batches()]
    shards = [{position // 50 for position in window} for window in windows]
    assert [len(of) for of in shards] == [4] * 4  # a batch is a window here, of four whole shards
    assert shards[0] | shards[1] == shards[2] | shards[3] == set(range(8))
    assert {*map(frozenset, shards[:2])} != {*map(frozenset, shards[2:])}
    for window in windows:
        neighbours = sum(b == a + 1 for a, b in pairwise(window))
        assert neighbours < 5  # about one by chance, of 199
    assert sorted(windows[0]) != windows[0]


def test_the_order_of_a_large_dataset_costs_memory_for_its_windows_alone() -> None:
    """A hundred million samples in 64 MB shards, as far as Python's own count goes."""
    shards = np.repeat(np.arange(20_000), 500)  # a tenth of that
    order = WindowedOrder(0, shards, 100, 16, 1)
    tracemalloc.start()
    try:
        batches = order.batches(order.total_steps // 2)
        for _ in range(10_000):
            next(batches)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 10e6  # one permutation of all would be 80 MB
