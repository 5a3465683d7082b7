"""The parameters of a run: one model, from which Prefect draws its form.

No secret is ever a parameter, since Prefect keeps parameters in clear text; keys come from the
environment of the worker.
"""

import os
import re
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from infra.urls import has_secret, without_secrets
from model.errors import InputError
from model.manifest import MOST_CLASSES
from model.recipe import Recipe
from model.recipes import named
from pipeline.layouts.layout import Layout

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip

# What recipes for one thing tell from the background, by how their names begin; all other recipes
# are for VOC's classes.
_THING = {"people-": "person", "carvana-": "car", "simple-fcn": "object"}


def default_classes(recipe: str) -> tuple[str, ...]:
    """The classes that a recipe is for, where none are named."""
    things = (thing for name, thing in _THING.items() if recipe.startswith(name))
    return next((("background", thing) for thing in things), VOC_CLASSES)


def home() -> Path:
    """Where everything lies that is not said otherwise: `VOC_TRAIN_HOME`, or `~/voc-train`."""
    return expanded(os.environ.get("VOC_TRAIN_HOME") or "~/voc-train")


def expanded(path: str) -> Path:
    """A path as a person types it, absolute and with `~` filled in."""
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:
        raise InputError(f"{path} is in the home of a user that is not known here.") from None


def default_store() -> str:
    """The store when none is named: `VOC_TRAIN_STORE`, or a folder in `home()`."""
    return os.environ.get("VOC_TRAIN_STORE") or (home() / "store").as_uri()


def default_ssh_from() -> tuple[str, ...]:
    """Where the worker comes from, as `VOC_TRAIN_SSH_FROM` says: networks with commas."""
    named = os.environ.get("VOC_TRAIN_SSH_FROM", "").split(",")
    return tuple(network.strip() for network in named if network.strip())


class Limits(BaseModel):
    """Bounds on what a run may take; beyond them it stops with a cause."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train_hours: float = Field(24.0, gt=0, le=24 * 30, description="training is stopped after")
    archive_gb: float = Field(100.0, gt=0, le=1e6, description="largest archive, once unpacked")
    photo_megapixels: float = Field(64.0, gt=0, le=178, description="largest photo or mask")
    shard_mb: int = Field(64, ge=1, le=4096, description="size of the dataset's shards")

    @property
    def archive_bytes(self) -> int:
        """Bytes of the largest archive, once unpacked."""
        return int(self.archive_gb * 1e9)

    @property
    def photo_pixels(self) -> float:
        """Pixels of the largest photo or mask."""
        return self.photo_megapixels * 1e6

    @property
    def shard_bytes(self) -> int:
        """Bytes from which on a shard is full; shards count in powers of two."""
        return self.shard_mb << 20


# "This network", and where IPv4 is written in IPv6: nobody comes from there.
_NOWHERE = {4: ip_network("0.0.0.0/8"), 6: ip_network("::/8")}


class RentalTerms(BaseModel):
    """What may be rented, and for how much."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    budget: float = Field(5.0, gt=0, le=100_000, description="dollars at most, all attempts")
    plan: str | None = Field(None, description="the provider's name of a plan; default: cheapest")
    region: str | None = Field(None, description="the provider's name of a region; default: any")
    ssh_from: tuple[str, ...] = Field(
        default_factory=default_ssh_from,
        description="networks (CIDR) that may reach the machine by SSH: where the worker is",
    )
    route: Literal["bucket", "volume"] = Field(
        "bucket", description="how data reaches the machine: object storage, or a Volume"
    )
    prepare_on: str = Field(
        "local",
        description="where the dataset is built: local, linode, dask (by all cores of the worker), "
        "or the address of a Dask scheduler, tcp://HOST:8786",
    )
    prepare_plan: str = Field(
        "g6-standard-2", description="plan of the machine that builds it, without a GPU"
    )
    volume_gb: int = Field(
        20, ge=10, le=10_240, description="size of the Volume, for the route of that name"
    )
    keep: bool = Field(False, description="keep the machine afterwards, until its deadline")
    reaper: bool = Field(True, description="refuse to rent while no reaper looks")

    @field_validator("ssh_from")
    @classmethod
    def _networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            try:
                named = ip_network(network)
            except ValueError:
                raise ValueError(
                    f"{network!r} is no network; write it like 203.0.113.7/32, without host bits"
                ) from None
            # Everybody can also be named in two halves, or as IPv4 written in IPv6.
            least = 8 if named.version == 4 else 16
            if named.prefixlen < least or named.overlaps(_NOWHERE[named.version]):
                raise ValueError(
                    f"{network} is nearly everybody; name the network you come from, /{least} or "
                    "smaller"
                )
        return networks

    @field_validator("prepare_on")
    @classmethod
    def _place(cls, place: str) -> str:
        if not re.fullmatch(r"local|linode|dask|(tcp|tls)://[^\s/@]+:\d{1,5}", place):
            raise ValueError(
                f"{place!r} is none of local, linode and dask, and no address of a Dask scheduler, "
                "which is like tcp://HOST:8786"
            )
        return place

    @model_validator(mode="after")
    def _somebody_ends_what_stays(self) -> Self:
        if self.keep and not self.reaper:
            raise ValueError("a machine is kept only where a reaper deletes it in the end")
        if self.route == "volume" and self.prepare_on not in ("local", "linode"):
            raise ValueError(
                "by the route of a Volume the dataset is built on the machine that has it; take "
                "the one by a bucket"
            )
        if self.keep and self.route == "volume":
            raise ValueError("the route by a Volume keeps no machine; take the one by a bucket")
        return self


class Parameters(BaseModel):
    """What a run needs to know."""

    # What was refused because of a secret must not be shown with it.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    archives: tuple[str, ...] = Field(
        min_length=1,
        description="URLs of tar archives (path, http(s), s3), each may end in #sha256=…",
    )
    layout: Layout = Field(Layout(), description="where the archives keep photos and masks")
    recipe: str = Field("voc-segmentnet", description="name of the recipe; see `voc-train recipes`")
    overrides: dict[str, Any] = Field({}, description="settings of the recipe to change")
    classes: tuple[str, ...] = Field(
        (),  # stands for those of the recipe, also in a form that is sent as it came
        max_length=MOST_CLASSES,
        description="class names in order of their index; by default those the recipe is for",
    )
    max_side: int | None = Field(
        None, ge=8, le=65_535, description="longest side of a photo in the dataset, pixels"
    )
    skip_missing: bool = Field(
        False, description="leave out listed ids without photo or mask, instead of refusing"
    )
    store: str = Field(
        default_factory=default_store,
        validate_default=True,
        description="file:///folder or s3://bucket",
    )
    machine: Literal["local", "linode", "ssh"] = Field("local", description="where to train")
    rental: RentalTerms = Field(default_factory=RentalTerms)
    ssh_host: str | None = Field(None, description="USER@HOST[:PORT], for the machine `ssh`")
    ssh_python: str = Field("python3", description="a Python with torch on that host")
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    workers: int | None = Field(
        None,
        ge=0,
        le=256,
        description="loader processes of a rank; by default one a core, but one",
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="CPU threads of a rank; by default one a core, but one",
    )
    ranks: int | None = Field(
        None,
        ge=1,
        le=64,
        description="processes that share each batch; by default one a GPU",
    )
    keep_step: int | None = Field(
        None, ge=1, description="step whose checkpoint is kept beside the best and the last"
    )
    wandb: Literal["auto", "online", "offline", "disabled"] = Field(
        "auto", description="auto: online where the worker has WANDB_API_KEY, else offline"
    )
    limits: Limits = Limits()
    promote: bool = Field(
        False,
        description="do nothing where nothing has changed since the last decision about a "
        "champion; else hold the checkpoint against the champion, and promote it if it is better",
    )
    force: bool = Field(False, description="with promote: train though nothing has changed")

    @model_validator(mode="before")
    @classmethod
    def _classes_of_the_recipe(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("classes"):
            return values
        recipe = values.get("recipe", cls.model_fields["recipe"].default)
        return values | {"classes": default_classes(str(recipe))}

    @field_validator("archives", "store")
    @classmethod
    def _no_secret_in(cls, urls: tuple[str, ...] | str) -> tuple[str, ...] | str:
        for url in (urls,) if isinstance(urls, str) else urls:
            if has_secret(url):
                name = without_secrets(url).rpartition("/")[2]
                raise ValueError(
                    f"the URL of {name} contains a secret, and parameters are kept in clear text; "
                    "remove it and put the key into the worker's environment"
                )
        return urls

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(classes) < 2:
            raise ValueError("needs at least 2, the first for the background")
        if len(set(classes)) != len(classes) or not all(classes):
            raise ValueError("every class needs a name, and no two the same")
        for name in classes:
            if not name.isprintable():
                raise ValueError(
                    f"the class name {name[:100]!r} has invisible or control characters; "
                    "write it without them"
                )
        return classes

    @model_validator(mode="after")
    def _recipe_exists(self) -> Self:
        self.resolved_recipe()
        return self

    @model_validator(mode="after")
    def _forced_to_something(self) -> Self:
        if self.force and not self.promote:
            raise ValueError("force goes with promote: without that, a run always trains")
        return self

    @model_validator(mode="after")
    def _compared_before_anything_is_rented(self) -> Self:
        if self.promote and (self.by_volume or (self.prepared_elsewhere and not self.force)):
            raise ValueError(
                "with promote the dataset is built on the worker and moves by way of a bucket: "
                "whether anything has changed is seen before anything is rented"
            )
        return self

    @model_validator(mode="after")
    def _rented_where_machines_are(self) -> Self:
        if self.rental.prepare_on == "linode" and self.machine != "linode":
            raise ValueError("prepare_on linode goes with machine linode, which rents")
        return self

    @property
    def by_volume(self) -> bool:
        """Whether the data moves on a disk, instead of through the store."""
        return self.machine == "linode" and self.rental.route == "volume"

    @property
    def prepared_elsewhere(self) -> bool:
        """Whether a machine is rented to build the dataset."""
        return self.machine == "linode" and self.rental.prepare_on == "linode"

    def resolved_recipe(self) -> Recipe:
        """The recipe with its overrides; InputError says what is wrong with them."""
        return named(self.recipe).override(self.overrides)
