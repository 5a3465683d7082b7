"""Order is arithmetic: what comes when is a function of seed, epoch and position."""

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from model.order import BatchOrder, Draw, augmentation_seed, epoch_order

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
