"""What every layout finds: pairs, and how many photos are none."""

from collections import Counter
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from model.errors import InputError
from model.indexed_tar import Member
from pipeline.archive import Archive

PHOTOS = (".jpg", ".jpeg", ".png")
MASKS = (".png", ".gif", ".bmp")  # formats that keep a class index as it is
SHOWN = 100  # characters of an id in a message
EXAMPLES = 3  # ids in a message
_MAX_BYTES = 256 << 20  # of one photo or mask: they are read into memory whole


class Pair(BaseModel):
    """A photo and its mask: where they lie in which archive, as (offset, size) in bytes."""

    model_config = ConfigDict(frozen=True)

    id: str
    split: str  # empty as long as nobody has decided
    group: str | None = None  # what must stay on one side, where no list says who judges
    archive: str
    photo: tuple[int, int]
    mask: tuple[int, int]
    photo_name: str
    mask_name: str


@dataclass
class Found:
    """The pairs of one archive, and what was left out by reason (see `Separation`)."""

    pairs: list[Pair] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def pair(
    name: str,
    archive: Archive,
    photo: Member,
    mask: Member,
    *,
    split: str = "",
    group: str | None = None,
) -> Pair:
    """A pair of the archive; InputError when photo or mask would fill the memory."""
    return Pair(
        id=name,
        split=split,
        group=group,
        archive=archive.sha256,
        photo=place(photo, archive, _MAX_BYTES),
        mask=place(mask, archive, _MAX_BYTES),
        photo_name=photo.name,
        mask_name=mask.name,
    )


def place(member: Member, archive: Archive, most: int) -> tuple[int, int]:
    """Where a member lies, (offset, size) in bytes; InputError when it would fill the memory."""
    if member.size > most:
        raise InputError(
            f"{archive.source}: {member.name} has {member.size:,} bytes, over the limit of "
            f"{most:,} for its kind; take it out of the archive."
        )
    return member.offset, member.size


def some(names: list[str], total: int) -> str:
    """The first names for a message, cut to a length that can be read."""
    return ", ".join(names[:EXAMPLES]) + (", …" if total > EXAMPLES else "")
