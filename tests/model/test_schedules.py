"""Schedules: rates worked by hand, torch's own schedulers, and resuming."""

import io
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LRScheduler, PolynomialLR

from model.optim import build_optimiser, build_schedule
from model.recipe import Recipe
from tiny import RECIPE

SCHEDULES = ("one-cycle", "cosine-restarts", "polynomial", "constant")
EPOCH = 5  # steps


def recipe(schedule: str, **settings: Any) -> Recipe:
    return RECIPE.override({"schedule": schedule, "lr": 0.4, "warm_up": 0} | settings)


def optimiser_of(chosen: Recipe) -> Optimizer:
    return build_optimiser(chosen, nn.Conv2d(1, 1, 1))


def rates(optimiser: Optimizer, schedule: LRScheduler, steps: int) -> list[float]:
    """The rate of each step, as a training asks for it: no step of the schedule after the last."""
    found = []
    for step in range(steps):
        found.append(float(schedule.get_last_lr()[0]))
        assert {group["lr"] for group in optimiser.param_groups} == {found[-1]}
        optimiser.step()
        if step + 1 < steps:
            schedule.step()
    return found


def rates_of(chosen: Recipe, steps: int) -> list[float]:
    optimiser = optimiser_of(chosen)
    return rates(optimiser, build_schedule(chosen, optimiser, steps, EPOCH), steps)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warm_up", [0, 0.01, 0.1, 0.25, 0.5, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 5, 10])
def test_any_length_and_warm_up_has_a_rate_for_every_step(
    schedule: str, warm_up: float, steps: int
) -> None:
    found = rates_of(recipe(schedule, warm_up=warm_up), steps)
    assert all(0 < rate <= 0.4 * 1.000001 for rate in found)


def test_constant_is_constant() -> None:
    assert rates_of(recipe("constant"), 7) == [0.4] * 7


@pytest.mark.parametrize("schedule", ["cosine-restarts", "polynomial", "constant"])
def test_warm_up_rises_evenly_to_the_rate_and_delays_the_rest(schedule: str) -> None:
    settings = {"restart_epochs": 1, "restart_factor": 2}
    found = rates_of(recipe(schedule, warm_up=0.375, **settings), 8 * EPOCH)
    assert found[:15] == pytest.approx([0.4 * step / 16 for step in range(1, 16)])
    assert found[15:] == rates_of(recipe(schedule, **settings), 5 * EPOCH)


@pytest.mark.parametrize(("epochs", "factor"), [(1, 1), (2, 1), (1, 2), (2, 3)])
def test_cosine_restarts_as_in_torch(epochs: int, factor: int) -> None:
    chosen = recipe("cosine-restarts", restart_epochs=epochs, restart_factor=factor)
    optimiser = optimiser_of(chosen)
    theirs = CosineAnnealingWarmRestarts(optimiser, T_0=epochs * EPOCH, T_mult=factor)
    found = rates_of(chosen, 18 * EPOCH)
    assert found == pytest.approx(rates(optimiser, theirs, 18 * EPOCH), abs=1e-12)
    assert found[epochs * EPOCH] == found[0] == 0.4
    assert found[1] == pytest.approx(0.2 * (1 + math.cos(math.pi / (epochs * EPOCH))))


@pytest.mark.parametrize("power", [0.9, 2.0])
def test_polynomial_as_in_torch(power: float) -> None:
    chosen = recipe("polynomial", power=power)
    optimiser = optimiser_of(chosen)
    theirs = PolynomialLR(optimiser, total_iters=20, power=power)
    found = rates_of(chosen, 20)
    assert found == pytest.approx(rates(optimiser, theirs, 20))
    assert found[10] == pytest.approx(0.4 * 0.5**power)


def test_polynomial_stays_at_0_after_the_last_step() -> None:
    chosen = recipe("polynomial")
    optimiser = optimiser_of(chosen)
    schedule = build_schedule(chosen, optimiser, 3, EPOCH)
    assert rates(optimiser, schedule, 6)[3:] == [0, 0, 0]


def momenta(optimiser: Optimizer) -> list[float]:
    return [
        float(group["momentum"] if "momentum" in group else group["betas"][0])
        for group in optimiser.param_groups
    ]


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_one_cycle_moves_rate_and_momentum_against_each_other(name: str) -> None:
    chosen = recipe("one-cycle", warm_up=0.3, optimiser=name)
    optimiser = optimiser_of(chosen)
    schedule = build_schedule(chosen, optimiser, 20, EPOCH)
    pairs = []
    for step in range(20):
        pairs.append((float(schedule.get_last_lr()[0]), momenta(optimiser)[1]))
        optimiser.step()
        if step < 19:
            schedule.step()
    found, momentum = zip(*pairs, strict=True)
    assert max(found) == found[5] == pytest.approx(0.4)
    assert found[0] == pytest.approx(0.4 / 25)
    assert found[-1] < 0.4 / 1e4
    assert momentum[5] == min(momentum) == pytest.approx(0.85)
    assert momentum[0] == pytest.approx(0.95)
    assert momentum[-1] == pytest.approx(0.95)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_one_cycle_gives_no_momentum_to_a_recipe_without(name: str) -> None:
    chosen = recipe("one-cycle", warm_up=0.3, momentum=0, optimiser=name)
    optimiser = optimiser_of(chosen)
    schedule = build_schedule(chosen, optimiser, 10, EPOCH)
    assert max(rates(optimiser, schedule, 10)) == pytest.approx(0.4)
    assert momenta(optimiser) == [0, 0]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("stop", [1, 6, 7, 13])
def test_resumed_it_has_the_same_rates(schedule: str, name: str, stop: int) -> None:
    chosen = recipe(schedule, warm_up=0.3, restart_epochs=1, restart_factor=2, optimiser=name)
    whole = rates_of(chosen, 20)
    optimiser = optimiser_of(chosen)
    first = build_schedule(chosen, optimiser, 20, EPOCH)
    rates(optimiser, first, stop)
    first.step()
    file = io.BytesIO()
    torch.save({"optimiser": optimiser.state_dict(), "schedule": first.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    resumed = optimiser_of(chosen)
    second = build_schedule(chosen, resumed, 20, EPOCH)
    resumed.load_state_dict(state["optimiser"])
    second.load_state_dict(state["schedule"])
    assert momenta(resumed) == momenta(optimiser)
    assert rates(resumed, second, 20 - stop) == whole[stop:]
