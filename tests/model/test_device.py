"""Devices and precisions: what is asked for, what is there, and what the hardware truly has."""

import os

import pytest
import torch

from model.device import autocast, default_threads, grad_scaler, pick_device, pick_precision
from model.errors import InputError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_a_named_device() -> None:
    assert pick_device("cpu") == CPU


@pytest.mark.parametrize("name", ["nonsense", "cuda:99", "", "meta:x"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="cannot be used here"):
        pick_device(name)


@pytest.mark.parametrize(
    ("cuda", "mps", "wanted"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_takes_the_fastest(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, wanted: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device().type == wanted


@pytest.mark.parametrize(
    ("device", "real_bf16", "wanted"),
    [
        (CUDA, True, torch.bfloat16),
        (CUDA, False, torch.float16),
        (CPU, True, torch.bfloat16),
        (CPU, False, torch.float32),
        (torch.device("mps"), True, torch.float32),
    ],
)
def test_auto_precision_is_what_the_hardware_has(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, real_bf16: bool, wanted: torch.dtype
) -> None:
    # The plain question is answered yes for emulation too, so it must not be the one asked.
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: including_emulation or real_bf16,
    )
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: real_bf16)
    assert pick_precision("auto", device) == wanted


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_a_named_precision_is_taken_at_its_word(name: str, wanted: torch.dtype) -> None:
    assert pick_precision(name, CPU) == wanted


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_autocast_computes_in_that_precision(dtype: torch.dtype) -> None:
    with autocast(CPU, dtype):
        assert torch.nn.functional.linear(torch.ones(1, 2), torch.ones(3, 2)).dtype == dtype


def test_only_fp16_is_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without a GPU torch turns the scaler off, with a warning; only the question matters here.
    asked = []
    monkeypatch.setattr("model.device.GradScaler", lambda _, enabled: asked.append(enabled))
    for device in (CPU, CUDA):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            grad_scaler(device, dtype)
    assert asked == [False, False, True] * 2


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (8, 7)])
def test_one_core_is_left_to_loader_and_system(
    monkeypatch: pytest.MonkeyPatch, cores: int, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert default_threads() == threads
