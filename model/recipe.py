"""A recipe says what to train: net, loss, optimiser, schedule, augmentation, image size.

It is frozen and validated, it is saved into every checkpoint, and it knows nothing of the data:
the number of classes comes from the dataset. The named recipes stand in `model/recipes.py`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from model.errors import InputError, first_problem, suggestion
from model.loss_terms import parse_loss


def _pair(value: object) -> object:
    """Let the command line say `scale=0.5,2`, with or without brackets."""
    parts = value.strip("()[] ").split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or len(parts) != 2:
        raise ValueError("needs two numbers, the lowest and the highest, like 0.5,2")
    return parts


def as_typed(value: object) -> str:
    """A setting's value as `--set` takes it: `0.5,2.0`, `none`, `true`."""
    match value:
        case tuple():
            return ",".join(map(as_typed, value))
        case None | bool():
            return str(value).lower()
        case _:
            return str(value)


Range = Annotated[tuple[float, float], BeforeValidator(_pair)]


class Recipe(BaseModel):
    """Everything that decides what is learned, except the data."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    summary: str = Field(description="one line for `voc-train recipes`")

    net: Literal["segmentnet"] = "segmentnet"
    width: int = Field(32, ge=1, le=512, description="channels of the net's first level")
    depth: int = Field(4, ge=1, le=6, description="how often the net halves the image")

    loss: str = Field(
        "tversky + cross_entropy", description="weighted sum of terms, like 0.5*jaccard + tversky"
    )
    tversky_alpha: float = Field(0.3, ge=0, le=10, description="weight of false positives")
    tversky_beta: float = Field(0.7, gt=0, le=10, description="weight of false negatives")

    optimiser: Literal["adamw"] = "adamw"
    lr: float = Field(1e-3, ge=0, le=10, description="peak learning rate of the schedule")
    weight_decay: float = Field(1e-2, ge=0, le=1)
    schedule: Literal["one-cycle"] = "one-cycle"
    warm_up: float = Field(0.3, gt=0, lt=1, description="share of the steps before the peak")
    clip: float = Field(1.0, gt=0, description="largest gradient norm")

    epochs: int = Field(50, ge=1, le=100_000)
    batch_size: int = Field(16, ge=1, le=4096, description="images a step")
    image_size: int = Field(320, ge=8, le=4096, description="side of the training crop, pixels")
    seed: int = Field(0, ge=0, lt=2**32)

    scale: Range = Field((0.5, 2.0), description="smallest and largest random resize")
    flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    rotate: float = Field(10.0, ge=0, le=180, description="largest rotation, degrees")
    jitter: float = Field(0.2, ge=0, le=1, description="strength of the colour jitter")

    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 where the device has it, fp16 on older CUDA, else fp32"
    )
    channels_last: bool = Field(True, description="images in NHWC memory layout")
    min_miou: float | None = Field(
        None, ge=0, le=1, description="a run whose best mIoU stays below this fails"
    )

    @field_validator("min_miou", mode="before")
    @classmethod
    def _none(cls, value: object) -> object:
        return None if isinstance(value, str) and value.lower() == "none" else value

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, text: str) -> str:
        parse_loss(text)
        return text

    @field_validator("scale")
    @classmethod
    def _ordered(cls, scale: tuple[float, float]) -> tuple[float, float]:
        low, high = scale
        if not 0.05 <= low <= high <= 20:
            raise ValueError("needs 0.05 <= low <= high <= 20")
        return scale

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
