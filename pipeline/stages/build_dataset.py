"""Build-dataset: labelled pairs become shards of photos and class-index masks in the store.

Photos are read from the archive by offset, checked by decoding every one, and written to plain
tars with an index. The dataset is named by the hash of what went in, and its manifest is written
last: a dataset without a manifest is none.
"""

import hashlib
import json
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from infra.stores import Store
from model.errors import InputError
from model.images import decode_mask, decode_photo, encode_mask, sample_digest
from model.indexed_tar import TarReader, TarWriter
from model.manifest import SPLITS, VOID, Manifest, Sample, Shard
from pipeline.archive import Archive, local_tar, must_be_unchanged
from pipeline.dataset import dataset_prefix, is_whole
from pipeline.download.spool import writable
from pipeline.layouts.found import Pair
from pipeline.masks import fit, read_mask, read_photo
from pipeline.parameters import Limits
from pipeline.progress import Progress, silent
from pipeline.stages.separate import Separation

_FORMAT, _LIMITS = 2, Limits()
_AHEAD = 4  # pairs in flight a thread: enough to keep it busy, few enough for flat memory


class _Converted(NamedTuple):
    pair: Pair
    photo: bytes
    suffix: str
    mask: bytes
    size: tuple[int, int]
    digest: bytes
    pixels: npt.NDArray[np.int64]


def build_dataset(
    separation: Separation,
    archives: Iterable[Archive],
    store: Store,
    spool: Path,
    *,
    classes: tuple[str, ...],
    mask_values: tuple[int, ...] | None = None,
    max_side: int | None = None,
    max_pixels: float = _LIMITS.photo_pixels,
    shard_bytes: int = _LIMITS.shard_bytes,
    needed: tuple[str, ...] = ("train", "val"),
    threads: int | None = None,
    report: Progress = silent,
) -> tuple[Manifest, bool]:
    """Build the dataset of `separation`; True when it was there already.

    Raises InputError naming the photo or mask that is broken, too large, of another size than its
    counterpart, or has a class index outside `classes` or a value outside `mask_values`; when those
    two are not as many; for an archive that changes meanwhile; and when a split that is needed has
    samples, but no pixel of a class.
    """
    if mask_values is not None and len(mask_values) != len(classes):
        raise InputError(
            f"There are {len(classes)} classes ({', '.join(classes[:3])}, …), but --layout "
            f"mask_values names {len(mask_values)} values; give one for each of --classes."
        )
    by_hash = {archive.sha256: archive for archive in archives}
    inputs = {
        "format": _FORMAT,
        "separation": separation.key,
        "classes": classes,
        "mask_values": mask_values,
        "max_side": max_side,
        "shard_bytes": shard_bytes,
    }
    key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]
    prefix = dataset_prefix(key)
    done = store.read_whole(f"{prefix}/manifest.json", Manifest)
    if done and done.key == key and is_whole(done, store):
        _must_have_classes(needed, done, by_hash.values(), mask_values)
        return done, True

    threads = threads or os.cpu_count() or 1
    digest = hashlib.sha256()
    pixels = {split: np.zeros(256, np.int64) for split in SPLITS}
    shards: list[Shard] = []
    with ExitStack() as stack:
        tars = {
            sha256: stack.enter_context(TarReader(local_tar(archive, store, spool)))
            for sha256, archive in by_hash.items()
        }
        stack.enter_context(writable(spool / "shards"))
        spool.mkdir(parents=True, exist_ok=True)
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=spool)))
        pool = stack.enter_context(ThreadPoolExecutor(threads))

        def convert(pair: Pair) -> _Converted:
            source, tar = by_hash[pair.archive].source, tars[pair.archive]
            return _convert(pair, tar, source, len(classes), mask_values, max_side, max_pixels)

        converted = _in_order(pool, convert, separation.pairs, threads * _AHEAD)
        index_path = scratch / "index.jsonl"
        with index_path.open("w", encoding="utf-8") as index:
            writer: TarWriter | None = None
            for done_now, item in enumerate(converted, 1):
                if writer is None:
                    writer = TarWriter(scratch / f"{len(shards):05d}.tar")
                index.write(_add(writer, item, len(shards)).model_dump_json() + "\n")
                digest.update(item.digest)
                pixels[item.pair.split] += item.pixels
                if writer.size >= shard_bytes or done_now == len(separation.pairs):
                    writer.close()
                    shards.append(_store_shard(store, prefix, writer))
                    writer = None
                report(done_now, len(separation.pairs))
        with index_path.open("rb") as file:
            index_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        store.put_file(f"{prefix}/index.jsonl", index_path, move=True)
        for sha256, archive in by_hash.items():
            must_be_unchanged(archive, tars[sha256])
    manifest = Manifest(
        key=key,
        digest=digest.hexdigest(),
        classes=classes,
        counts={split: separation.count(split) for split in SPLITS},
        pixels={
            split: (*map(int, counts[: len(classes)]), int(counts[VOID]))
            for split, counts in pixels.items()
        },
        archives=tuple(sorted(by_hash)),
        max_side=max_side,
        shards=tuple(shards),
        index_sha256=index_sha256,
        left_out=separation.left_out(),
    )
    _must_have_classes(needed, manifest, by_hash.values(), mask_values)
    store.write(f"{prefix}/manifest.json", manifest)
    return manifest, False


def _must_have_classes(
    needed: Iterable[str],
    built: Manifest,
    archives: Iterable[Archive],
    mask_values: tuple[int, ...] | None,
) -> None:
    """What has nothing but void can neither teach nor judge, and would seem to do so."""
    sources = ", ".join(archive.source for archive in archives)
    pixels = [built.pixels[split] for split in needed]
    if len(built.classes) == 2 and mask_values is None:
        _, thing, void = (sum(of) for of in zip(*pixels, strict=True))
        if void and not thing and any(of[0] for of in pixels):
            raise InputError(
                f"The masks of {sources} hold only 0 and {VOID}, where {VOID} is void, so none has "
                f"a pixel of {built.classes[1]}; if white means {built.classes[1]}, say --layout "
                f"mask_values=0,{VOID}."
            )
    for split in needed:
        *of_classes, void = built.pixels[split]
        if void and not any(of_classes):
            raise InputError(
                f"The {split} masks of {sources} have no pixel but void ({VOID}); give masks that "
                "hold class indices."
            )


def _convert(
    pair: Pair,
    tar: TarReader,
    source: str,
    classes: int,
    mask_values: tuple[int, ...] | None,
    max_side: int | None,
    max_pixels: float,
) -> _Converted:
    """One pair, from bytes in the archive to bytes in the shard; runs in a thread."""
    called = f"{source}: {pair.mask_name}"
    mask = read_mask(tar.read(*pair.mask), classes, called, max_pixels, mask_values)
    size: tuple[int, int] = mask.shape[0], mask.shape[1]
    name = f"{source}: {pair.photo_name}"
    photo = read_photo(tar.read(*pair.photo), size, name, max_pixels)
    if max_side and max(size) > max_side:
        photo, mask = fit(decode_photo(photo, name), mask, max_side)
        size = mask.shape[0], mask.shape[1]
    mask_png = encode_mask(mask)
    # What the loader will return, by the loader's own decoders.
    returned = decode_photo(photo, name)
    if returned.shape[:2] != size:
        raise InputError(f"{name} decodes to another size than its header says; replace it.")
    return _Converted(
        pair,
        photo,
        "png" if photo.startswith(b"\x89PNG") else "jpg",
        mask_png,
        size,
        sample_digest(pair.id, returned, decode_mask(mask_png, name)),
        np.bincount(mask.ravel(), minlength=256),
    )


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


def _store_shard(store: Store, prefix: str, writer: TarWriter) -> Shard:
    shard = Shard(name=writer.path.name, size=writer.size, sha256=writer.sha256)
    store.put_file(f"{prefix}/shards/{shard.name}", writer.path, move=True)
    return shard
