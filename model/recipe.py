"""A recipe says what to train: net, loss, optimiser, schedule, augmentation, image size.

It is frozen and validated, it is saved into every checkpoint, and it knows nothing of the data:
the number of classes comes from the dataset. The named recipes stand in `model/recipes.py`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from model.errors import InputError, first_problem, suggestion
from model.loss_terms import WEIGHTED_TERMS, parse_loss

NETS = tuple(
    sorted(
        path.stem
        for path in (Path(__file__).parent / "nets").glob("*.py")
        if path.stem != "__init__"
    )
)


class Size(NamedTuple):
    """Height and width in pixels; written `320x480`, or `320` for a square."""

    height: int
    width: int

    def scaled(self, factor: float) -> "Size":
        """Both sides times `factor`, rounded, at least 1."""
        return Size(max(1, round(self.height * factor)), max(1, round(self.width * factor)))

    def __str__(self) -> str:
        """As `--set` takes it."""
        return str(self.height) if self.height == self.width else f"{self.height}x{self.width}"


def _numbers(value: object) -> object:
    """Let the command line say `0.5,2`, with or without brackets."""
    return value.strip("()[] ").split(",") if isinstance(value, str) else value


def _pair(value: object) -> object:
    parts = _numbers(value)
    if not isinstance(parts, list | tuple) or len(parts) != 2:
        raise ValueError("needs two numbers, the lowest and the highest, like 0.5,2")
    return parts


def _list(value: object) -> object:
    """As `_numbers`; one number is a list of one, and `none` or nothing one of none."""
    if isinstance(value, str) and value.strip("()[] ").lower() in ("", "none"):
        return ()
    return (value,) if isinstance(value, int | float) else _numbers(value)


def _size(value: object) -> object:
    if isinstance(value, str):
        value = value.strip("()[] ").replace(",", "x").split("x")
    parts = list(value) if isinstance(value, list | tuple) else [value]
    numbers = all(str(part).strip().isdecimal() for part in parts)
    if len(parts) not in (1, 2) or not numbers:
        raise ValueError("needs a side or height x width in pixels, like 320 or 320x480")
    return parts * 2 if len(parts) == 1 else parts


def _or_none(value: object) -> object:
    return None if isinstance(value, str) and value.lower() == "none" else value


def as_typed(value: object) -> str:
    """A setting's value as `--set` takes it: `0.5,2.0`, `320x480`, `none`, `true`."""
    match value:
        case Size():
            return str(value)
        case tuple():
            return ",".join(map(as_typed, value)) or "none"
        case None | bool():
            return str(value).lower()
        case _:
            return str(value)


# What is asked of a result, and decides nothing of what is learned.
GATES = ("min_miou", "promotion_confidence", "promotion_margin", "promotion_class_drop")

Range = Annotated[tuple[float, float], BeforeValidator(_pair)]
Factor = Annotated[float, Field(ge=0.1, le=10)]


class Recipe(BaseModel):
    """Everything that decides what is learned, except the data.

    A setting of the net that is None is left to the net, whose file in `model/nets/` says what it
    takes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    summary: str = Field(description="one line for `voc-train recipes`")

    net: str = Field("segmentnet", description=f"one of {', '.join(NETS)}")
    width: Annotated[int, Field(ge=1, le=512)] | None = Field(
        None, description="channels of the net's first level"
    )
    depth: Annotated[int, Field(ge=1, le=6)] | None = Field(
        None, description="how often the net halves the image"
    )
    encoder: str | None = Field(
        None, description="resnet18, 34 or 50 for resnet_unet; vgg11 or vgg16 for vgg_unet"
    )
    pretrained: bool | None = Field(
        None, description="start from torchvision's ImageNet weights of the encoder"
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="share of the channels left out at random; none: the net's own"
    )

    loss: str = Field(
        "tversky + cross_entropy", description="weighted sum of terms, like 0.5*jaccard + tversky"
    )
    tversky_alpha: float = Field(0.3, ge=0, le=10, description="weight of false positives")
    tversky_beta: float = Field(0.7, gt=0, le=10, description="weight of false negatives")
    focal_gamma: float = Field(2.0, ge=0, le=10, description="how little easy pixels count")
    class_weights: Literal["none", "median-frequency", "log"] = Field(
        "none", description="weight rare classes by the training split's pixel counts"
    )

    optimiser: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = Field(1e-3, ge=0, le=10, description="peak learning rate of the schedule")
    weight_decay: float = Field(1e-2, ge=0, le=1)
    momentum: float = Field(
        0.9, ge=0, lt=1, description="of SGD; Adam's first beta. One-cycle moves it by itself"
    )
    schedule: Literal["one-cycle", "cosine-restarts", "polynomial", "constant"] = "one-cycle"
    warm_up: float = Field(0.3, ge=0, lt=1, description="share of the steps before the peak")
    restart_epochs: int = Field(
        10, ge=1, le=100_000, description="length of the first period of cosine-restarts"
    )
    restart_factor: int = Field(
        1, ge=1, le=10, description="each period is so many times the one before"
    )
    power: float = Field(0.9, gt=0, le=10, description="exponent of the polynomial schedule")
    clip: Annotated[float, Field(gt=0)] | None = Field(1.0, description="largest gradient norm")
    ema: float = Field(
        0.0, ge=0, lt=1, description="decay of the averaged weights; 0: they are not averaged"
    )

    epochs: int = Field(50, ge=1, le=100_000)
    batch_size: int = Field(16, ge=1, le=4096, description="images a step")
    accumulate: int = Field(
        1, ge=1, le=4096, description="parts that a step is computed in, to save memory"
    )
    image_size: Annotated[Size, BeforeValidator(_size)] = Field(
        Size(320, 320), description="height x width of what the net is trained on, pixels"
    )
    multi_scale: Annotated[tuple[Factor, ...], BeforeValidator(_list)] = Field(
        (), description="factors of image_size, like 0.75,1,1.25, of which each batch draws one"
    )
    seed: int = Field(0, ge=0, lt=2**32)
    stream_gb: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        None,
        description="none: all shards are on the machine's disk, and an epoch is one permutation "
        "of all photos; else shards come from the store when their turn comes, at most so many GB "
        "at a time, and photos are mixed within half of that",
    )

    fit: Literal["crop", "resize", "pad"] = Field(
        "crop",
        description="crop: windows of image_size; resize: whole photos, squeezed to it, also when "
        "predicting; pad: whole photos, shrunk into it, each batch padded with void",
    )
    scale: Range = Field((0.5, 2.0), description="smallest and largest random resize")
    flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    flip_vertical: float = Field(0.0, ge=0, le=1, description="probability of a vertical flip")
    rotate: float = Field(10.0, ge=0, le=180, description="largest rotation, degrees")
    jitter: float = Field(0.2, ge=0, le=1, description="strength of the colour jitter")
    normalise: Literal["imagenet", "per-image"] = Field(
        "imagenet", description="channel means and deviations: ImageNet's, or each photo's own"
    )

    augment_on: Literal["auto", "loader", "device"] = Field(
        "auto",
        description="loader: photos are augmented by processes; device: they lie on the device, "
        "decoded, and are augmented there, by the same numbers; auto: so on a GPU, where they take "
        "no more than 4 GiB",
    )

    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 where the device has it, fp16 on older CUDA, else fp32"
    )
    channels_last: bool = Field(True, description="images in NHWC memory layout")
    compile: bool = Field(False, description="torch.compile: slow to start, then faster on a GPU")
    min_miou: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="a run whose best mIoU stays below this fails"
    )
    promotion_confidence: float = Field(
        0.95, ge=0.5, le=0.999, description="of the interval of the difference to the champion"
    )
    promotion_margin: float = Field(
        0.0, ge=0, lt=1, description="mIoU by which that interval must be above the champion's"
    )
    promotion_class_drop: float = Field(
        0.05, ge=0, le=1, description="IoU that any one class may lose against the champion"
    )

    _optional = field_validator(
        *("width", "depth", "encoder", "pretrained", "dropout", "stream_gb", "clip", "min_miou"),
        mode="before",
    )(_or_none)

    @field_validator("net")
    @classmethod
    def _known_net(cls, name: str) -> str:
        if name not in NETS:
            raise ValueError(suggestion(name, NETS).rstrip("."))
        return name

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, text: str) -> str:
        parse_loss(text)
        return text

    @field_validator("class_weights")
    @classmethod
    def _weigh_something(cls, kind: str, others: ValidationInfo) -> str:
        terms = parse_loss(others.data["loss"]) if "loss" in others.data else WEIGHTED_TERMS
        if kind != "none" and not set(terms) & set(WEIGHTED_TERMS):
            raise ValueError(
                f"weighs {', '.join(WEIGHTED_TERMS)} only, and none of them is in the loss"
            )
        return kind

    @field_validator("augment_on")
    @classmethod
    def _all_there(cls, where: str, others: ValidationInfo) -> str:
        if where == "device" and others.data.get("stream_gb") is not None:
            raise ValueError("wants all photos at once, and stream_gb never has them")
        return where

    @field_validator("image_size")
    @classmethod
    def _bounded(cls, size: Size) -> Size:
        if not all(8 <= side <= 4096 for side in size):
            raise ValueError("needs sides of 8 to 4096 pixels")
        return size

    @field_validator("scale")
    @classmethod
    def _ordered(cls, scale: tuple[float, float]) -> tuple[float, float]:
        low, high = scale
        if not 0.05 <= low <= high <= 20:
            raise ValueError("needs 0.05 <= low <= high <= 20")
        return scale

    def seen_size(self, photo: Size) -> Size:
        """The size at which the net sees a photo of that size, for training and for predicting."""
        match self.fit:
            case "crop":
                return photo
            case "resize":
                return self.image_size
            case "pad":
                height, width = self.image_size
                return photo.scaled(min(1.0, height / photo.height, width / photo.width))

    def scaled(self, factor: float) -> Self:
        """This recipe at an image size so many times its own."""
        return self.model_copy(update={"image_size": self.image_size.scaled(factor)})

    def decisive(self) -> dict[str, Any]:
        """Every setting as JSON has it, but those that decide nothing of what is learned."""
        return self.model_dump(mode="json", exclude={"summary", *GATES})

    def override(self, changes: Mapping[str, Any]) -> Self:
        """This recipe with some settings changed; values may be text, as typed.

        Raises InputError for an unknown setting or a value out of range.
        """
        settings = sorted(type(self).model_fields.keys() - {"name", "summary"})
        for key in changes:
            if key not in settings:
                raise InputError(
                    f"Recipe {self.name!r} has no setting {key!r}. {suggestion(key, settings)}"
                )
        values = self.model_dump() | dict(changes)
        try:
            return type(self).model_validate(values)
        except ValidationError as error:
            where, said = first_problem(error)
            key = where.partition(".")[0]
            raise InputError(
                f"{key}={values[key]!r} does not fit recipe {self.name!r}: {said}."
            ) from None
