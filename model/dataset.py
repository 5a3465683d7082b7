"""How the samples of a built dataset are read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError

from model.errors import InputError
from model.images import Image, decode_mask, decode_photo
from model.indexed_tar import TarReader
from model.manifest import Manifest, Sample, read_index
from model.stream import Stream


class Labelled(NamedTuple):
    """A decoded sample: photo uint8 [H, W, 3] in RGB, mask uint8 [H, W] of class indices."""

    id: str
    photo: Image
    mask: Image


@contextmanager
def _described(folder: Path) -> Iterator[None]:
    """Say in a sentence what is wrong with the description of the dataset there."""
    try:
        yield
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


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the dataset in `folder`; InputError when it is missing or broken."""
    with _described(folder):
        return Manifest.model_validate_json((folder / "manifest.json").read_bytes())


class Dataset:
    """One split of a dataset on local disk. Safe to share with forked or spawned workers."""

    def __init__(
        self, folder: Path, split: str, stream: Stream | None = None, *, asks: bool = False
    ) -> None:
        """Open `split` of the dataset in `folder`; InputError when it is missing or broken.

        With a `stream` its shards need not be there yet. A split that is read in its own order
        `asks` for them by itself.
        """
        self.manifest = read_manifest(folder)
        with _described(folder), (folder / "index.jsonl").open() as lines:
            self.samples = [sample for sample in read_index(lines) if sample.split == split]
        promised = self.manifest.counts.get(split, 0)
        if len(self.samples) != promised:
            raise InputError(
                f"The dataset in {folder} should have {promised} {split!r} samples, but its index "
                f"lists {len(self.samples)}; delete that folder and run again."
            )
        if not self.samples:
            raise InputError(f"{folder} has no {split!r} samples.")
        self.split = split
        # The shard of each sample, int64 [samples], ascending as shards are written one by one.
        self.shards = np.array([sample.shard for sample in self.samples])
        # Height and width of each photo, int64 [samples, 2].
        self.sizes = np.array([(sample.height, sample.width) for sample in self.samples])
        self.stream = stream
        self._asks = asks
        needed = [] if stream else np.unique(self.shards).tolist()
        self._readers = {
            number: TarReader(folder / "shards" / self.manifest.shards[number].name)
            for number in needed
        }

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> Labelled:
        """Decode one sample; InputError names it when it cannot be decoded."""
        sample = self.samples[position]
        photo, mask = self._read(sample)
        found = Labelled(sample.id, decode_photo(photo, sample.id), decode_mask(mask, sample.id))
        size = sample.height, sample.width
        if found.photo.shape != (*size, 3) or found.mask.shape != size:
            raise InputError(
                f"{sample.id} is not of the size that the dataset's index says; build it again."
            )
        return found

    def _read(self, sample: Sample) -> tuple[bytes, bytes]:
        if self.stream is None:
            shard = self._readers[sample.shard]
            return shard.read(*sample.photo), shard.read(*sample.mask)
        if self._asks:
            later = self.shards[np.searchsorted(self.shards, sample.shard, side="right") :]
            self.stream.ask_between([sample.shard, *later[:1].tolist()])
        with self.stream.open(sample.shard) as shard:
            return shard.read(*sample.photo), shard.read(*sample.mask)
