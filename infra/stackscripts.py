"""The boot scripts at the provider, and the pinned packages that they are given."""

import hashlib
import re
from collections.abc import Callable, Iterable
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from infra.failure import Cause, Failure
from infra.provider import Kind, Provider, ScriptOrder, Thing

# What a job imports there; what these need in turn is found out.
TRAINER = (
    "filelock",
    "numpy",
    "obstore",
    "opencv-python-headless",
    "pillow",
    "pydantic",
    "torch",
    "torchvision",
    "wandb",
)
PREPARER = (
    "filelock",
    "fsspec",
    "httpx",
    "numpy",
    "obstore",
    "opencv-python-headless",
    "pillow",
    "pydantic",
    "rich",
)

_FOLDER = Path(__file__).parents[1] / "stackscripts"  # in a checkout, and where a wheel puts it
_DESCRIPTION = "Boot script of voc-train; its label ends with the hash of its text."
# The machine's image, which may be another system than this computer.
_IMAGE = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.12.3",
    "python_version": "3.12",
    "sys_platform": "linux",
}


def script(name: str) -> ScriptOrder:
    """A script of this project, such as gpu_trainer, under a label that says its content.

    Raises Failure(INTERNAL) where this installation came without it.
    """
    path = _FOLDER / f"{name}.sh"
    try:
        text = path.read_text()
    except OSError as error:
        raise Failure(
            Cause.INTERNAL,
            f"{path} cannot be read ({error.strerror}); install voc-train again.",
            permanent=True,
        ) from error
    digest = hashlib.sha256(text.encode()).hexdigest()
    return ScriptOrder(f"voc-train-{name}-{digest[:12]}", text, _DESCRIPTION)


def published(provider: Provider, name: str, create: Callable[[ScriptOrder], Thing]) -> Thing:
    """The account's own script of that label and text, made by `create` where there is none.

    A script of the same label and another text is somebody else's, and left alone.
    """
    order = script(name)
    for thing in provider.list(Kind.SCRIPT, label=order.label):
        if thing.label == order.label and thing.text == order.script:
            return thing
    return create(order)


def requirements(names: Iterable[str]) -> str:
    """Pins of these distributions and of all that they need, separated by spaces.

    The versions are the ones installed here, which were tested together, without the build that
    this computer happens to have (2.15.0+cpu is asked for as 2.15.0). What is needed on the
    machine's system only, and so is not installed here, is left to pip.

    Raises Failure(SETUP_FAILED) where one of `names` is not installed.
    """
    pins: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    open_ends = [(name, "") for name in names]
    for name in (name for name, _ in open_ends):
        if _version(name) is None:
            raise Failure(
                Cause.SETUP_FAILED, f"{name} is not installed here; run `make setup` again."
            )
    while open_ends:
        name, extra = open_ends.pop()
        version = _version(name)
        if version is None or (name, extra) in seen:
            continue
        seen.add((name, extra))
        pins[name] = version
        open_ends += _needed(name, extra)
    return " ".join(f"{name}=={version}" for name, version in sorted(pins.items()))


def _needed(name: str, extra: str) -> list[tuple[str, str]]:
    """What a distribution with one of its extras (or "", without) needs: names and extras."""
    image = {**_IMAGE, "extra": extra}
    needed: list[tuple[str, str]] = []
    for requirement in _requirements(name):
        if requirement.marker is None or requirement.marker.evaluate(image):
            canonical = canonicalize_name(requirement.name)
            needed += [(canonical, wanted) for wanted in ("", *requirement.extras)]
    return needed


@cache  # to read a distribution's metadata and to parse its lines takes milliseconds
def _requirements(name: str) -> tuple[Requirement, ...]:
    return tuple(map(Requirement, metadata.requires(name) or ()))


@cache
def _version(name: str) -> str | None:
    try:
        return re.sub(r"\+.*", "", metadata.version(name))
    except metadata.PackageNotFoundError:
        return None
