"""Which code, libraries and hardware made a checkpoint."""

import hashlib
import platform
from functools import cache
from importlib import metadata
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field

_LIBRARIES = ("torch", "torchvision", "numpy", "opencv-python-headless")


class Provenance(BaseModel):
    """What, beside recipe and data, decides the bits of the weights."""

    model_config = ConfigDict(frozen=True)

    code: str
    libraries: dict[str, str]
    python: str
    processor: str
    device: str
    precision: str
    threads: int = Field(ge=1, le=1024)  # of each rank
    ranks: int = Field(1, ge=1, le=1024)


@cache
def code_version() -> str:
    """sha256 over this package's source, 12 hex digits: equal code has equal versions anywhere.

    A commit id would not do: the rented box has a wheel and no repository.
    """
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder).as_posix()}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def processor() -> str:
    """The CPU's name and the instruction set that torch uses on it."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = (s for s in info.read_text().splitlines() if s.startswith("model name"))
        name = next(names, f": {name}").split(":", 1)[1].strip()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def provenance(device: torch.device, dtype: torch.dtype, ranks: int = 1) -> Provenance:
    """The provenance of what this process, one of `ranks`, computes on `device`."""
    on_gpu = device.type == "cuda"
    return Provenance(
        code=code_version(),
        libraries={name: metadata.version(name) for name in _LIBRARIES},
        python=platform.python_version(),
        processor=processor(),
        device=torch.cuda.get_device_name(device) if on_gpu else device.type,
        precision=str(dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        ranks=ranks,
    )
