"""The code that a machine needs, as a wheel named by its content.

It is put together from the files of the code that runs here, so that what was tested is what runs
there, whether this is a checkout or an installed package. Equal files give equal bytes.
"""

import ast
import base64
import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile, ZipInfo

_ROOMS = ("model", "infra", "pipeline")
_DISTRIBUTION = "voc_train_box"
_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file can say
# For training: what the agent runs, and the agent.
BOX = ("model", "infra.agent")


@dataclass(frozen=True)
class Wheel:
    """A wheel in memory; `digest` names the code in it."""

    name: str
    digest: str  # 12 hexadecimal digits
    content: bytes


def build_wheel(roots: Sequence[str] = BOX) -> Wheel:
    """A wheel of these modules, and of everything of this project that they import.

    A package among the roots goes in whole, with its data; a module brings what it imports, be it
    inside a function.
    """
    files = {name: path.read_bytes() for name, path in _files(roots).items()}
    said = "".join(f"{name} {hashlib.sha256(files[name]).hexdigest()}\n" for name in files)
    digest = hashlib.sha256(said.encode()).hexdigest()[:12]
    number = f"{version('voc-train')}+{digest}"
    about = f"{_DISTRIBUTION}-{number}.dist-info"
    files |= {
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {_DISTRIBUTION}\n"
        f"Version: {number}\n".encode(),
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nGenerator: voc-train\n"
        b"Root-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},{_recorded(data)}\n" for name, data in files.items())
    files[f"{about}/RECORD"] = f"{record}{about}/RECORD,,\n".encode()
    packed = io.BytesIO()
    with ZipFile(packed, "w") as archive:  # stored: zlib's versions pack in different ways
        for name, data in files.items():
            entry = ZipInfo(name, _TIME)
            entry.create_system = 3  # Unix, on whatever this is
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, data)
    return Wheel(f"{_DISTRIBUTION}-{number}-py3-none-any.whl", digest, packed.getvalue())


def _recorded(data: bytes) -> str:
    """Digest and size as RECORD has them (packaging.python.org, "binary distribution format")."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
    return f"sha256={digest},{len(data)}"


def _files(roots: Sequence[str]) -> dict[str, Path]:
    """Path in the wheel and path here of every file, in order."""
    found: dict[str, Path] = {}
    seen: set[str] = set()
    waiting = [*roots]
    while waiting:
        module = waiting.pop()
        path = _path(module)
        if module in seen or path is None:
            continue
        seen.add(module)
        parent, _, _ = module.rpartition(".")
        place = module.replace(".", "/")
        waiting += [parent] if parent else []
        waiting += _imports(path)
        if path.name != "__init__.py":
            found[f"{place}.py"] = path
            continue
        found[f"{place}/__init__.py"] = path
        if module in roots:
            for inside in path.parent.rglob("*"):
                if inside.suffix == ".py":
                    parts = inside.relative_to(path.parent).with_suffix("").parts
                    waiting.append(".".join((module, *parts)).removesuffix(".__init__"))
                elif inside.is_file() and "__pycache__" not in inside.parts:
                    found[f"{place}/{inside.relative_to(path.parent).as_posix()}"] = inside
    return dict(sorted(found.items()))


def _path(module: str) -> Path | None:
    """The file of one of this project's modules, which is not imported; None for anything else."""
    room, *rest = module.split(".")
    spec = find_spec(room) if room in _ROOMS else None
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent.joinpath(*rest)
    return next((p for p in (path / "__init__.py", path.with_suffix(".py")) if p.is_file()), None)


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)
