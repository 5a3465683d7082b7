"""How the samples of a built dataset are read."""

from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from model.errors import InputError
from model.images import Image, decode_mask, decode_photo
from model.indexed_tar import TarReader
from model.manifest import Manifest, read_index


class Labelled(NamedTuple):
    """A decoded sample: photo uint8 [H, W, 3] in RGB, mask uint8 [H, W] of class indices."""

    id: str
    photo: Image
    mask: Image


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
