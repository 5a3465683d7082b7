"""What several commands take: options, in groups or alone, and how they become parameters."""

import re
import sys
from collections.abc import Collection, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, TypeVar

import typer

from infra.stores import M
from model.errors import InputError, first_problem, suggestion
from pipeline.layouts.layout import Layout
from pipeline.parameters import Limits as LimitsModel
from pipeline.parameters import Parameters, expanded

N = TypeVar("N", bound=str)

# The run of this process, for whoever says how it ended: an exception does not always get so far.
this_run: ContextVar[str | None] = ContextVar("this_run", default=None)

StoreUrl = Annotated[
    str, typer.Option("--store", help="file:///folder or s3://bucket/prefix", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="End with one JSON object on stdout.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps")]
Flip = Annotated[
    bool, typer.Option("--flip", help="Average with the mirror image; takes twice as long.")
]
Window = Annotated[
    int | None,
    typer.Option(
        help="Predict in overlapping windows of so many pixels, for photos too large for the "
        "memory.",
        show_default=False,
    ),
]
Recipe = Annotated[str, typer.Option(help="See `voc-train recipes`.")]
Wandb = Annotated[str, typer.Option(help="auto, online, offline or disabled")]
SshFrom = Annotated[
    list[str],
    typer.Option(
        "--ssh-from",
        metavar="CIDR",
        help="Network that may reach the machine by SSH: where this computer comes from, like "
        "203.0.113.7/32. Default: VOC_TRAIN_SSH_FROM. Repeatable.",
    ),
]
Limits = Annotated[
    list[str],
    typer.Option(
        "--limit",
        metavar="KEY=VALUE",
        help="One of train_hours, archive_gb, photo_megapixels, shard_mb. Repeatable.",
    ),
]
Plan = Annotated[str | None, typer.Option(help="Provider's name of a plan. Default: cheapest GPU.")]
Region = Annotated[str | None, typer.Option(help="Provider's name of a region. Default: any.")]
AnyPlan = Annotated[str, typer.Option("--plan", help="Provider's name of a plan.")]
Keep = Annotated[
    bool, typer.Option("--keep", help="Keep the machine until its deadline, and pay for all of it.")
]
NoReaper = Annotated[bool, typer.Option("--no-reaper", help="Rent though no reaper looks.")]
PrepareOn = Annotated[
    str,
    typer.Option(
        metavar="PLACE",
        help="Where the dataset is built: local, linode (a rented machine), dask (all cores of "
        "this computer), or a Dask scheduler, like tcp://HOST:8786",
    ),
]
Promote = Annotated[
    bool,
    typer.Option(
        "--promote",
        help="Do nothing where nothing has changed since the last decision about a champion; else "
        "promote what was trained if it is better than the champion.",
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="With --promote: train though nothing has changed.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@dataclass(frozen=True)
class Photos:
    """Which photos and masks, and how they are read."""

    archives: Annotated[
        list[str],
        typer.Option(
            "--archive",
            metavar="URL",
            help="Path or URL (http, s3) of a tar of photos and masks; may end in #sha256=…. "
            "Repeatable.",
        ),
    ] = field(default_factory=list)
    layout: Annotated[
        list[str],
        typer.Option(
            "--layout",
            metavar="KIND|KEY=VALUE",
            help="devkit, carvana or folders, where the archive does not show it; or one of "
            "photos, masks, mask_suffix, group, val_share, mask_values. Repeatable.",
        ),
    ] = field(default_factory=list)
    max_side: Annotated[
        int | None, typer.Option(help="Shrink photos to this longest side, pixels.")
    ] = None
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out listed ids without photo or mask.")
    ] = False
    limits: Limits = field(default_factory=list)

    def as_parameters(self, *, archives_needed: bool = True) -> dict[str, Any]:
        """In the words of `Parameters`."""
        if archives_needed and not self.archives:
            raise InputError(
                "Name at least one --archive: a path or URL of a tar of photos and masks."
            )
        if not all(url.strip() for url in self.archives):
            raise InputError("An --archive is empty; give a path or a URL.")
        # A word alone is the layout's kind.
        layout = [text if "=" in text else f"kind={text}" for text in self.layout]
        return {
            "archives": [absolute(url) for url in self.archives],
            "layout": pairs(layout, "--layout", Layout.model_fields),
            "max_side": self.max_side,
            "skip_missing": self.skip_missing,
            "limits": pairs(self.limits, "--limit", LimitsModel.model_fields),
        }


@dataclass(frozen=True)
class Learning:
    """What is learned of them; the recipe's name is each command's own, as its default differs."""

    overrides: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe's setting. Repeatable."),
    ] = field(default_factory=list)
    classes: Annotated[
        str | None,
        typer.Option(
            help="Class names by index, with commas. Default: the recipe's, mostly VOC's 21.",
            show_default=False,
        ),
    ] = None
    workers: Annotated[int | None, typer.Option(help="Loader processes.")] = None

    def as_parameters(self) -> dict[str, Any]:
        """In the words of `Parameters`."""
        names = self.classes.split(",") if self.classes else []
        return {
            "overrides": pairs(self.overrides, "--set"),
            "classes": [name.strip() for name in names],
            "workers": self.workers,
        }


@dataclass(frozen=True)
class Terms:
    """What may be rented, for how much, and how the data gets there."""

    budget: Annotated[float, typer.Option(help="Dollars at most, all attempts together.")] = 5.0
    plan: Plan = None
    region: Region = None
    route: Annotated[str, typer.Option(help="bucket, or volume: how data reaches the machine")] = (
        "bucket"
    )
    volume_gb: Annotated[int, typer.Option(help="Size of the Volume, for that route.")] = 20
    prepare_on: PrepareOn = "local"


def parameters_of(photos: Photos, learning: Learning | None = None, **values: Any) -> Parameters:
    """The parameters from what was typed; what was not typed keeps its default."""
    learned = learning.as_parameters() if learning else {}
    parameters = checked(Parameters, **photos.as_parameters(), **learned, **values)
    from pipeline.download.local import must_be_here

    must_be_here(parameters.archives)  # rather now than after Prefect's start
    return parameters


def checked(kind: type[M], **values: Any) -> M:
    """A model from what was typed. Raises InputError."""
    from pydantic import ValidationError

    try:
        return kind.model_validate(given(**values))
    except ValidationError as error:
        where, said = first_problem(error)
        inside = "limits." if kind is LimitsModel else ""
        said = f"{_option(inside + where)}: {said}" if where else said
        raise InputError(f"{said}.") from None


def _option(where: str) -> str:
    """How the field of a model, such as rental.budget, is typed."""
    first, _, rest = where.partition(".")
    match first:
        case "limits" | "layout":
            return f"--{first[:-1] if first == 'limits' else first} {rest}".rstrip()
        case "archives":
            return "--archive"
        case "overrides":
            return f"--set {rest}".rstrip()
        case "ssh_host":
            return "USER@HOST[:PORT]"
        case "ssh_python":
            return "--python"
        case "reaper":
            return "--no-reaper"
        case "rental" if rest:
            return _option(rest)
        case _:
            return f"--{first.replace('_', '-')}"


def given(**values: Any) -> dict[str, Any]:
    """What was typed; what was not keeps its default elsewhere."""
    return {key: value for key, value in values.items() if value not in (None, "", {}, [])}


def must_agree(
    question: str = "Rent it?", declined: str = "Not rented; nothing was created."
) -> None:
    """Ask whether to rent; leave without a word of failure where the answer is no."""
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:
        if sys.stdin.isatty():
            raise
        print(file=sys.stderr)
        raise InputError("Nobody answers here; --yes does it without asking.") from None
    if not agreed:
        print(declined, file=sys.stderr)
        raise typer.Exit(1)


def absolute(url: str) -> str:
    """A path as the worker must see it, wherever it runs; URLs stay as they are."""
    if "://" in url:
        return url
    path, mark, checksum = url.partition("#sha256=")
    return f"{expanded(path)}{mark}{checksum}"


def pairs(texts: list[str], option: str, known: Collection[str] = ()) -> dict[str, str]:
    """KEY=VALUE, as often as it was given; where there are `known` keys, none but those."""
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InputError(f"{option} {text!r} is not KEY=VALUE, like {option} epochs=5.")
        key = key.strip()
        if known and key not in known:
            raise InputError(f"{option} has no setting {key!r}. {suggestion(key, known)}")
        pairs[key] = value.strip()
    return pairs


def date_in(text: str, option: str, form: str, example: str) -> datetime:
    """A day or a month as it was typed. Raises InputError."""
    try:
        return datetime.strptime(text, form)
    except ValueError:
        raise InputError(f"{option} {text!r} is no such date; write it like {example}.") from None


def one_of(names: Sequence[N], name: str | None, option: str) -> N | None:
    """A name as it was typed, if it is one of these."""
    for known in names:
        if known == name:
            return known
    if name is not None:
        raise InputError(f"{option} {name!r} is none of {', '.join(names)}.")
    return None


def run_id(run: str) -> str:
    """The id of a run as it was typed, if it can be one."""
    if not re.fullmatch(r"[\w-]{1,40}", run, re.ASCII):
        raise InputError(
            f"{run!r} is no run's id, which is like 261121-4k2ra; see `voc-train status`."
        )
    return run
