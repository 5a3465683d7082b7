"""Build-dataset: labelled pairs become shards of photos and class-index masks in the store.

Photos are read from the archive by offset, checked by decoding every one, and written to plain
tars with an index; `pipeline/shards.py` builds one of these. The dataset is named by the hash of
what went in, and its manifest is written last: a dataset without a manifest is none. What an
attempt before this one has built is not built again.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from infra.failure import Cause, Failure
from infra.stores import Store
from model.errors import InputError
from model.indexed_tar import TarReader
from model.manifest import SPLITS, VOID, Manifest
from pipeline.archive import Archive, local_tar
from pipeline.dataset import dataset_prefix, is_whole
from pipeline.download.spool import writable
from pipeline.parameters import Limits
from pipeline.progress import Progress, silent
from pipeline.shards import Part, Planned, Shards, planned
from pipeline.spread import Spread
from pipeline.stages.separate import Separation

_FORMAT, _LIMITS = 3, Limits()


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
    spread: Spread | None = None,
    report: Progress = silent,
) -> tuple[Manifest, bool]:
    """Build the dataset of `separation`; True when it was there already.

    By as many threads as cores or as is said; or elsewhere, where there is a `spread`. Its content
    does not depend on that.

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
    archives = tuple({archive.sha256: archive for archive in archives}.values())
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
        _must_have_classes(needed, done, archives, mask_values)
        return done, True

    shards = Shards(store, prefix, archives, len(classes), mask_values, max_side, max_pixels)
    plan = planned(separation.pairs, shard_bytes)
    pairs_done = 0

    def converted(pairs: int) -> None:
        nonlocal pairs_done
        pairs_done += pairs
        report(pairs_done, len(separation.pairs))

    if spread:
        for shard, _ in spread("build-shard", shards.build_there, plan):
            converted(len(shard.pairs))
    else:
        with ExitStack() as stack:
            tars = {
                archive.sha256: stack.enter_context(TarReader(local_tar(archive, store, spool)))
                for archive in archives
            }
            for shard in plan:
                shards.build(shard, tars, spool, threads=threads, converted=converted)

    digest = hashlib.sha256()
    pixels = {split: np.zeros(256, np.int64) for split in SPLITS}
    described = []
    with ExitStack() as stack:
        stack.enter_context(writable(spool / "index"))
        spool.mkdir(parents=True, exist_ok=True)
        scratch = stack.enter_context(tempfile.TemporaryDirectory(dir=spool))
        index_path = Path(scratch, "index.jsonl")
        with index_path.open("w", encoding="utf-8") as index:
            for part in _parts(shards, plan):
                described.append(part.shard)
                for sample in part.samples:
                    index.write(sample.model_dump_json() + "\n")
                for one in part.digests:
                    digest.update(bytes.fromhex(one))
                for split, counts in part.pixels.items():
                    pixels[split] += counts
        with index_path.open("rb") as file:
            index_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        store.put_file(f"{prefix}/index.jsonl", index_path, move=True)
    manifest = Manifest(
        key=key,
        digest=digest.hexdigest(),
        classes=classes,
        counts={split: separation.count(split) for split in SPLITS},
        pixels={
            split: (*map(int, counts[: len(classes)]), int(counts[VOID]))
            for split, counts in pixels.items()
        },
        archives=tuple(sorted(archive.sha256 for archive in archives)),
        max_side=max_side,
        shards=tuple(described),
        index_sha256=index_sha256,
        left_out=separation.left_out(),
    )
    _must_have_classes(needed, manifest, archives, mask_values)
    store.write(f"{prefix}/manifest.json", manifest)
    shards.forget_parts()
    return manifest, False


def _parts(shards: Shards, plan: Iterable[Planned]) -> Iterator[Part]:
    """The notes of all shards, one at a time. Raises Failure(STORE) where one is not here."""
    for shard in plan:
        part = shards.part(shard.number)
        if part is None:
            raise Failure(
                Cause.STORE,
                f"Shard {shard.number} of {shards.prefix} was built, but is not in "
                f"{shards.store.url}: whoever builds shards must see the same store. Use a bucket, "
                "or a folder that all of them share.",
                permanent=True,
            )
        yield part


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
