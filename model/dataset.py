"""What a built dataset says about itself, and how its samples are read.

A dataset is a folder with `manifest.json`, `index.jsonl` and `shards/*.tar`. The shards are plain
uncompressed tars in WebDataset's naming (`ID.jpg`, `ID.mask.png`), so other tools read them too;
we read them by offset.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from model.errors import InputError
from model.images import Image, decode_mask, decode_photo
from model.indexed_tar import TarReader

VOID = 255  # the class index of pixels that never count
MOST_CLASSES = 254  # that fit into a byte beside it and one that stands for no class
SPLITS = ("train", "val", "test")


class Shard(BaseModel):
    """One tar of samples; size in bytes."""

    model_config = ConfigDict(frozen=True)

    name: str
    size: int
    sha256: str


class Sample(BaseModel):
    """One line of the index: where a photo and its mask lie, as (offset, size) in bytes."""

    model_config = ConfigDict(frozen=True)

    id: str
    split: str
    shard: int
    photo: tuple[int, int]
    mask: tuple[int, int]
    height: int
    width: int


class Manifest(BaseModel):
    """A dataset's description; its presence means that the dataset is whole."""

    model_config = ConfigDict(frozen=True)

    format: int = 1
    key: str  # sha256 of what went in: the dataset's name
    digest: str  # sha256 over every sample as the loader returns it
    classes: tuple[str, ...]
    counts: dict[str, int]  # samples a split
    pixels: dict[str, tuple[int, ...]]  # a split: pixels of each class, void last
    archives: tuple[str, ...]  # sha256 of each archive that went in
    max_side: int | None
    shards: tuple[Shard, ...]
    index_sha256: str
    left_out: dict[str, int]  # photos that did not become samples, by reason


class Labelled(NamedTuple):
    """A decoded sample: photo uint8 [H, W, 3] in RGB, mask uint8 [H, W] of class indices."""

    id: str
    photo: Image
    mask: Image


def read_index(lines: Iterable[str]) -> Iterator[Sample]:
    """Parse the index line by line."""
    return (Sample.model_validate_json(line) for line in lines)


class Dataset:
    """One split of a dataset on local disk. Safe to share with forked or spawned workers."""

    def __init__(self, folder: Path, split: str) -> None:
        """Open `split` of the dataset in `folder`; InputError when it is missing or broken."""
        try:
            self.manifest = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
            with (folder / "index.jsonl").open() as lines:
                self.samples = [sample for sample in read_index(lines) if sample.split == split]
        except FileNotFoundError as error:
            raise InputError(
                f"{folder} is not a whole dataset ({Path(error.filename).name} is missing); "
                "build it again with `voc-train run`."
            ) from None
        except (ValidationError, UnicodeDecodeError):
            raise InputError(
                f"The description of the dataset in {folder} is damaged; delete that folder and "
                "run again."
            ) from None
        promised = self.manifest.counts.get(split, 0)
        if len(self.samples) != promised:
            raise InputError(
                f"The dataset in {folder} should have {promised} {split!r} samples, but its index "
                f"lists {len(self.samples)}; delete that folder and run again."
            )
        if not self.samples:
            raise InputError(f"{folder} has no {split!r} samples.")
        self.split = split
        self._shards = [TarReader(folder / "shards" / s.name) for s in self.manifest.shards]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> Labelled:
        """Decode one sample; InputError names it when it cannot be decoded."""
        sample = self.samples[position]
        shard = self._shards[sample.shard]
        photo = decode_photo(shard.read(*sample.photo), sample.id)
        mask = decode_mask(shard.read(*sample.mask), sample.id)
        return Labelled(sample.id, photo, mask)
