"""What a built dataset says about itself.

A dataset is a folder with `manifest.json`, `index.jsonl` and `shards/*.tar`. The shards are plain
uncompressed tars in WebDataset's naming (`ID.jpg`, `ID.mask.png`), so other tools read them too;
`model/dataset.py` reads them by offset.
"""

from collections.abc import Iterable, Iterator

from pydantic import BaseModel, ConfigDict

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


def read_index(lines: Iterable[str]) -> Iterator[Sample]:
    """Parse the index line by line."""
    return (Sample.model_validate_json(line) for line in lines)
