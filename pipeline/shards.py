"""Shards: the pairs are cut into runs, and each run becomes a tar in the store, and a note of it.

What a shard holds is a matter of the separation and of its number alone. So whoever comes may build
it, on any computer and in any order, and where its note is there nobody builds it again.
"""

import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from infra.stores import Store
from model.errors import InputError
from model.images import decode_photo, encode_mask, sample_digest
from model.indexed_tar import TarReader, TarWriter
from model.manifest import Sample, Shard
from pipeline.archive import Archive, local_tar, must_be_unchanged
from pipeline.download.spool import writable
from pipeline.layouts.found import Pair
from pipeline.masks import fit, read_mask, read_photo

_AHEAD = 4  # pairs in flight a thread: enough to keep it busy, few enough for flat memory


class Planned(NamedTuple):
    """A shard that is to be: its number, and its pairs in their order."""

    number: int
    pairs: tuple[Pair, ...]


class Part(BaseModel):
    """What index and manifest of a dataset say of one shard: `datasets/KEY/parts/00003.json`.

    digests: of the samples in their order, in hex. pixels: a split to how many pixels have each
    value, 0 to 255.
    """

    model_config = ConfigDict(frozen=True)

    shard: Shard
    samples: tuple[Sample, ...]
    digests: tuple[str, ...]
    pixels: dict[str, tuple[int, ...]]


class _Converted(NamedTuple):
    pair: Pair
    photo: bytes
    suffix: str
    mask: bytes
    size: tuple[int, int]
    digest: bytes
    pixels: npt.NDArray[np.int64]


def planned(pairs: Iterable[Pair], shard_bytes: int) -> list[Planned]:
    """Cut the pairs into runs that have `shard_bytes` in their archives, or just reach beyond."""
    runs: list[list[Pair]] = []
    size = shard_bytes  # as if one were full
    for pair in pairs:
        if size >= shard_bytes:
            runs.append([])
            size = 0
        runs[-1].append(pair)
        size += pair.photo[1] + pair.mask[1]
    return [Planned(number, tuple(run)) for number, run in enumerate(runs)]


@dataclass(frozen=True)
class Shards:
    """What the shards of a dataset have in common; it is pickled to whoever builds some of them.

    classes: how many there are. max_side, max_pixels: of a photo, as in `build_dataset`.
    """

    store: Store
    prefix: str
    archives: tuple[Archive, ...]
    classes: int
    mask_values: tuple[int, ...] | None
    max_side: int | None
    max_pixels: float

    def part(self, number: int) -> Part | None:
        """The note of a shard; None where there is none, or not the shard that it speaks of."""
        part = self.store.read_whole(self._note(number), Part)
        if part is None or self.store.size(self._tar(part.shard.name)) != part.shard.size:
            return None
        return part

    def forget_parts(self) -> None:
        """Delete the notes: once there is a manifest, the index says what they said."""
        notes = self.store.list(f"{self.prefix}/parts")
        self.store.delete_many([entry.key for entry in notes])

    def build_there(self, shard: Planned, spool: Path) -> None:
        """Build a shard on a computer that builds several at once: a thread does not ask for more.

        Its archives are fetched, verified and opened once a process.
        """
        needed = {pair.archive for pair in shard.pairs}
        tars = {
            archive.sha256: _opened(archive, self.store.url, spool)
            for archive in self.archives
            if archive.sha256 in needed
        }
        self.build(shard, tars, spool, threads=1)

    def build(
        self,
        shard: Planned,
        tars: Mapping[str, TarReader],
        spool: Path,
        *,
        threads: int | None = None,
        converted: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Build a shard, unless that was done before; its note is written last.

        `tars` are those of its archives by their sha256; `converted` hears how many pairs more are
        done. Raises InputError as `build_dataset` does.
        """
        if self.part(shard.number):
            converted(len(shard.pairs))
            return
        sources = {archive.sha256: archive.source for archive in self.archives}
        threads = threads or os.cpu_count() or 1

        def convert(pair: Pair) -> _Converted:
            return self._convert(pair, tars[pair.archive], sources[pair.archive])

        samples: list[Sample] = []
        digests: list[str] = []
        pixels = {pair.split: np.zeros(256, np.int64) for pair in shard.pairs}
        with ExitStack() as stack:
            stack.enter_context(writable(spool / "shards"))
            spool.mkdir(parents=True, exist_ok=True)
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=spool)))
            pool = stack.enter_context(ThreadPoolExecutor(threads))
            writer = TarWriter(scratch / f"{shard.number:05d}.tar")
            for item in _in_order(pool, convert, shard.pairs, threads * _AHEAD):
                samples.append(_add(writer, item, shard.number))
                digests.append(item.digest.hex())
                pixels[item.pair.split] += item.pixels
                converted(1)
            writer.close()
            for archive in self.archives:
                if archive.sha256 in tars:
                    must_be_unchanged(archive, tars[archive.sha256])
            built = Shard(name=writer.path.name, size=writer.size, sha256=writer.sha256)
            self.store.put_file(self._tar(built.name), writer.path, move=True)
        counts = {split: tuple(map(int, of)) for split, of in pixels.items()}
        part = Part(shard=built, samples=tuple(samples), digests=tuple(digests), pixels=counts)
        self.store.write(self._note(shard.number), part)

    def _note(self, number: int) -> str:
        return f"{self.prefix}/parts/{number:05d}.json"

    def _tar(self, name: str) -> str:
        return f"{self.prefix}/shards/{name}"

    def _convert(self, pair: Pair, tar: TarReader, source: str) -> _Converted:
        """One pair, from bytes in the archive to bytes in the shard; runs in a thread."""
        called = f"{source}: {pair.mask_name}"
        data = tar.read(*pair.mask)
        mask = read_mask(data, self.classes, called, self.max_pixels, self.mask_values)
        size: tuple[int, int] = mask.shape[0], mask.shape[1]
        name = f"{source}: {pair.photo_name}"
        photo = read_photo(tar.read(*pair.photo), size, name, self.max_pixels)
        if self.max_side and max(size) > self.max_side:
            photo, mask = fit(decode_photo(photo, name), mask, self.max_side)
            size = mask.shape[0], mask.shape[1]
        # What the loader will return, by the loader's own decoder.
        returned = decode_photo(photo, name)
        if returned.shape[:2] != size:
            raise InputError(f"{name} decodes to another size than its header says; replace it.")
        return _Converted(
            pair,
            photo,
            "png" if photo.startswith(b"\x89PNG") else "jpg",
            encode_mask(mask),
            size,
            sample_digest(pair.id, returned, mask),
            np.bincount(mask.ravel(), minlength=256),
        )


@lru_cache(maxsize=8)
def _opened(archive: Archive, store_url: str, spool: Path) -> TarReader:
    return TarReader(local_tar(archive, Store.open(store_url), spool))


def _in_order(
    pool: ThreadPoolExecutor,
    convert: Callable[[Pair], _Converted],
    pairs: Iterable[Pair],
    ahead: int,
) -> Iterator[_Converted]:
    """Like `pool.map`, but never more than `ahead` results wait: memory stays flat."""
    waiting: deque[Future[_Converted]] = deque()
    try:
        for pair in pairs:
            waiting.append(pool.submit(convert, pair))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _add(writer: TarWriter, item: _Converted, shard: int) -> Sample:
    # In WebDataset's naming the first dot ends the key, so a key has none.
    key = f"{item.pair.split}/{quote(item.pair.id, safe='').replace('.', '%2E')}"
    photo = writer.add(f"{key}.{item.suffix}", item.photo)
    mask = writer.add(f"{key}.mask.png", item.mask)
    return Sample(
        id=item.pair.id,
        split=item.pair.split,
        shard=shard,
        photo=(photo.offset, photo.size),
        mask=(mask.offset, mask.size),
        height=item.size[0],
        width=item.size[1],
    )
