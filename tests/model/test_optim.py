"""Optimisers: what they decay, that the fused kernels agree with the plain ones, and resuming."""

import io
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from model.optim import build_optimiser
from model.recipe import Recipe
from tiny import RECIPE

NAMES = ("adamw", "adam", "sgd")


def recipe(name: str, **settings: float) -> Recipe:
    chosen = {"optimiser": name, "lr": 0.1, "weight_decay": 0.5, "momentum": 0.8}
    return RECIPE.override(chosen | settings)


def small_net() -> nn.Module:
    torch.manual_seed(0)
    # A bias before a norm has no gradient but rounding, which Adam would blow up.
    first = nn.Conv2d(3, 5, 3, bias=False)
    net = nn.Sequential(first, nn.BatchNorm2d(5), nn.ConvTranspose2d(5, 4, 2, stride=2))
    return net.to(memory_format=torch.channels_last)


def learn(net: nn.Module, optimiser: Optimizer, steps: range) -> None:
    for step in steps:
        images = torch.randn(2, 3, 7, 6, generator=torch.Generator().manual_seed(step))
        optimiser.zero_grad(set_to_none=True)
        net(images.contiguous(memory_format=torch.channels_last)).square().mean().backward()
        optimiser.step()


def weights(net: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in net.parameters()]


@pytest.mark.parametrize("name", NAMES)
def test_biases_and_norms_are_not_decayed(name: str) -> None:
    net = small_net()
    optimiser = build_optimiser(recipe(name), net)
    before = weights(net)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimiser.step()
    for old, new in zip(before, weights(net), strict=True):
        if old.ndim == 1:
            assert torch.equal(new, old)
        elif name == "adam":  # decay through the gradient: the first step is the rate itself
            assert torch.allclose(new, old - 0.1 * old.sign(), atol=1e-5)
        else:
            assert torch.allclose(new, old * (1 - 0.1 * 0.5))


def plainly(name: str, net: nn.Module, decay: float) -> Optimizer:
    groups = [
        {"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in net.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    plain: dict[str, Any] = {"lr": 0.1, "foreach": False, "fused": False}
    match name:
        case "adamw":
            return AdamW(groups, betas=(0.8, 0.999), **plain)
        case "adam":
            return Adam(groups, betas=(0.8, 0.999), **plain)
        case _:
            return SGD(groups, momentum=0.8, **plain)


@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_the_plain_kernels_of_torch(name: str) -> None:
    ours, theirs = small_net(), small_net()
    learn(ours, build_optimiser(recipe(name), ours), range(4))
    learn(theirs, plainly(name, theirs, decay=0.5), range(4))
    for a, b in zip(weights(ours), weights(theirs), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_on_the_cpu_the_update_is_one_kernel(name: str) -> None:
    assert all(group["fused"] for group in build_optimiser(recipe(name), small_net()).param_groups)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_saved_and_loaded_it_goes_on_to_the_last_bit(name: str, momentum: float) -> None:
    chosen = recipe(name, momentum=momentum)
    whole, stopped = small_net(), small_net()
    learn(whole, build_optimiser(chosen, whole), range(6))
    optimiser = build_optimiser(chosen, stopped)
    learn(stopped, optimiser, range(3))
    file = io.BytesIO()
    torch.save({"net": stopped.state_dict(), "optimiser": optimiser.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    resumed = small_net()
    resumed.load_state_dict(state["net"])
    optimiser = build_optimiser(chosen, resumed)
    optimiser.load_state_dict(state["optimiser"])
    learn(resumed, optimiser, range(3, 6))
    for a, b in zip(weights(whole), weights(resumed), strict=True):
        assert torch.equal(a, b)
