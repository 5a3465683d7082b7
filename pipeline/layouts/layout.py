"""What a user may say of an archive's layout; most of the time, nothing."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from model.tar_headers import plain_name

_MAX_PATTERN = 200  # characters

Kind = Literal["auto", "devkit", "carvana", "folders"]
Grey = Annotated[int, Field(ge=0, le=255)]


class Layout(BaseModel):
    """Where an archive keeps photos and masks, and how they are split where no list says so."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind = Field("auto", description="auto: whichever of the three the archive looks like")
    photos: str = Field("images", description="folder of the photos")
    masks: str = Field("masks", description="folder of the masks, beside that of the photos")
    mask_suffix: str = Field("", description="what follows the photo's name in a mask's name")
    group: str | None = Field(
        None,
        max_length=_MAX_PATTERN,
        description="regular expression for a photo's whole path below its folder, without the "
        "extension; photos with the same text in its one group stay on one side of the split",
    )
    val_share: float = Field(
        0.2, gt=0, lt=1, description="about what share of the groups validates"
    )
    mask_values: tuple[Grey, ...] | None = Field(
        None,
        min_length=2,
        max_length=254,
        description="the pixel value of each class in the masks, in the classes' order, such as "
        "0,255; by default the values are the classes' indices, and 255 is void",
    )

    @property
    def names_folders(self) -> bool:
        """Whether anything was said that only makes sense of two folders."""
        said = ("photos", "masks", "mask_suffix", "group")
        return any(getattr(self, name) != type(self).model_fields[name].default for name in said)

    @field_validator("photos", "masks")
    @classmethod
    def _plain(cls, folder: str) -> str:
        plain = plain_name(folder)
        if not plain:
            raise ValueError("a folder needs a name")
        return plain

    @field_validator("mask_suffix")
    @classmethod
    def _part_of_a_name(cls, suffix: str) -> str:
        if "/" in suffix or not suffix.isprintable():
            raise ValueError(f"{suffix[:100]!r} cannot be part of a file's name")
        return suffix

    @field_validator("group")
    @classmethod
    def _one_group(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        try:
            groups = re.compile(pattern).groups
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        if groups != 1:
            raise ValueError(
                f"{pattern!r} has {groups} groups instead of one; put round brackets around what "
                r"photos that belong together share, like (.+)_\d+, and write (?:…) elsewhere"
            )
        return pattern

    @field_validator("mask_values", mode="before")
    @classmethod
    def _with_commas(cls, values: Any) -> Any:
        return values.split(",") if isinstance(values, str) else values

    @field_validator("mask_values")
    @classmethod
    def _distinct(cls, values: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if values and len(set(values)) != len(values):
            raise ValueError("no two classes can have the same value")
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.kind in ("devkit", "carvana") and self.names_folders:
            raise ValueError(
                f"{self.kind} has folders and names of its own; leave photos, masks, mask_suffix "
                "and group out, or say kind=folders"
            )
        photos, masks = f"{self.photos}/", f"{self.masks}/"
        if photos.startswith(masks) or masks.startswith(photos):
            raise ValueError("photos and masks must be two folders, neither inside the other")
        return self


# Kaggle's Carvana Image Masking Challenge: train/ID_VV.jpg is view VV of the car ID.
CARVANA = Layout(
    kind="folders",
    photos="train",
    masks="train_masks",
    mask_suffix="_mask",
    group=r"(.+)_\d+",
)
