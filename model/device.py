"""Which device computes, in which precision and memory format."""

import os
import re
from contextlib import AbstractContextManager, nullcontext

import torch
from torch.amp import GradScaler

from model.errors import InputError

_NO_MEMORY = re.compile(
    r"can't allocate memory|(CUDA|MPS backend) out of memory|CUDA error: out of memory"
    r"|CUBLAS_STATUS_ALLOC_FAILED|not enough memory"
)


def pick_device(wanted: str = "auto") -> torch.device:
    """`auto` takes CUDA, then Apple's MPS, then the CPU."""
    if wanted != "auto":
        try:
            device = torch.device(wanted)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError):
            raise InputError(f"Device {wanted!r} cannot be used here; try cpu or auto.") from None
        return device
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def pick_precision(wanted: str, device: torch.device) -> torch.dtype:
    """The dtype that autocast uses; float32 means no autocast.

    `auto` takes bf16 only where the hardware has it: `torch.cuda.is_bf16_supported()` also says yes
    to emulation, which is slower than fp32, and so is bf16 on a CPU without AVX-512 BF16.
    """
    if wanted != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[wanted]
    if device.type == "cuda":
        real = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if real else torch.float16
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32


def pick_memory_format(channels_last: bool) -> torch.memory_format:
    """How weights and images lie in memory; unasked, photos have their channels last."""
    return torch.channels_last if channels_last else torch.contiguous_format


def usable_cores() -> int:
    """CPU cores that this process may use, which in a container are fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_threads(ranks: int = 1) -> int:
    """CPU threads to compute with: all cores but one, which loader and system need.

    Several ranks share them.

    OpenMP's threads wait for each other at every layer, so one that has to share its core holds up
    all of them: with 2 threads on 2 busy cores a step took ten times as long as with 1 (measured).
    """
    return max(1, (usable_cores() - 1) // ranks)


def default_workers(ranks: int = 1) -> int:
    """Loader processes: one a core but the net's own, and no more than 8, which feed any GPU.

    Several ranks share the cores.
    """
    return min((usable_cores() - 1) // ranks, 8)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a computation failed for want of memory; only CUDA has an exception of its own."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))
    )


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Autocast to `dtype` on `device`, or nothing for float32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)


def grad_scaler(device: torch.device, dtype: torch.dtype) -> GradScaler:
    """fp16 gradients underflow without scaling (Micikevicius et al., 2018); bf16 has the range."""
    return GradScaler(device.type, enabled=dtype == torch.float16 and device.type != "mps")
