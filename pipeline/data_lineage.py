"""The lineage of the data: archives by their names, a dataset by what its samples decode to."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from infra.failure import Cause, Failure
from infra.integrity import sha256_of
from infra.stores import Store
from model.checkpoint import Description
from model.errors import InputError
from model.images import decode_mask, decode_photo, sample_digest
from model.indexed_tar import TarReader, index_tar, write_index
from model.manifest import Manifest, Sample, read_index
from pipeline.archive import Archive
from pipeline.dataset import dataset_prefix
from pipeline.progress import Progress
from pipeline.proofs import Link, Proof


def archive_link(
    sha256: str, source: str, known: Iterable[Archive], store: Store, scratch: Path
) -> Link:
    """The tar by its name, and its index by the tar; `known` is what the store says of archives."""
    notes = [archive for archive in known if archive.sha256 == sha256]
    proof, tar = _tar(sha256, notes, store, scratch)
    return Link(
        kind="archive",
        name=sha256,
        said=source or next((note.source for note in notes), ""),
        proofs=(proof, _index_of(sha256, tar, notes, store, scratch)),
    )


def _tar(
    sha256: str, notes: list[Archive], store: Store, scratch: Path
) -> tuple[Proof, Path | None]:
    """Where it lies if it is verified: in the store, or a file of the user's."""
    key, here = f"archives/{sha256}.tar", scratch / "archive.tar"
    if store.size(key) is not None:
        store.get_file(key, here, link=True)
        proof = Proof.of_hash("tar", sha256_of(here), sha256, "its name")
        return proof, here if proof.state == "verified" else None
    for path in (Path(note.original.path) for note in notes if note.original):
        try:
            proof = Proof.of_hash("tar", sha256_of(path), sha256, f"the store of {path}")
        except OSError:
            continue
        return proof, path if proof.state == "verified" else None
    return Proof.missing("tar", "it is neither in the store nor where it was read from"), None


def _index_of(
    sha256: str, tar: Path | None, notes: list[Archive], store: Store, scratch: Path
) -> Proof:
    """Made again from the tar where there is one; else by what was noted when it was made."""
    data = store.get(f"archives/{sha256}.index.jsonl")
    if data is None:
        return Proof.missing("index")
    found = hashlib.sha256(data).hexdigest()
    if tar:
        again = scratch / "index.jsonl"
        try:
            write_index(again, index_tar(tar, require_end=False))
        except InputError as error:
            return Proof.damaged("index", error)
        return Proof.of_hash("index", found, sha256_of(again), "the tar")
    for noted in (note.index_sha256 for note in notes if note.index_sha256):
        return Proof.of_hash("index", found, noted, "the store")
    return Proof.missing("index", "without its tar nothing says what it should be")


def dataset_link(made: Description, store: Store, scratch: Path, report: Progress) -> Link:
    """Manifest, index and shards by their hashes, and the content by decoding every sample."""
    prefix, proofs = dataset_prefix(made.dataset_key), []
    try:
        manifest = store.read(f"{prefix}/manifest.json", Manifest)
    except Failure as failure:
        if failure.cause is not Cause.CORRUPT:
            raise
        proofs, manifest = [Proof.damaged("manifest", failure)], None
    else:
        if manifest is None:
            proofs = [Proof.missing("dataset")]
    if manifest:
        proofs = [
            Proof.of_agreement(
                "manifest",
                key=manifest.key == made.dataset_key,
                digest=manifest.digest == made.dataset_digest,
                archives={*manifest.archives} == {*made.archives},
                classes=manifest.classes == made.classes,
                largest_side=manifest.max_side == made.max_side,
            ),
            *_content(manifest, made.dataset_digest, store, scratch, report),
        ]
    return Link(kind="dataset", name=made.dataset_key, proofs=tuple(proofs))


def _content(
    manifest: Manifest, digest: str, store: Store, scratch: Path, report: Progress
) -> list[Proof]:
    """One shard at a time, so that disk and memory stay small."""
    prefix = dataset_prefix(manifest.key)
    data = store.get(f"{prefix}/index.jsonl")
    if data is None:
        return [Proof.missing("index")]
    found = hashlib.sha256(data).hexdigest()
    index = Proof.of_hash("index", found, manifest.index_sha256, "the manifest")
    samples: dict[int, list[Sample]] = defaultdict(list)
    shards: list[Proof] = []
    content = hashlib.sha256()
    try:
        if index.state == "verified":
            for sample in read_index(data.decode().splitlines()):
                samples[sample.shard].append(sample)
        for number, shard in enumerate(manifest.shards):
            report(number, len(manifest.shards))
            key, here = f"{prefix}/shards/{shard.name}", scratch / "shard.tar"
            if store.size(key) is None:
                shards.append(Proof.missing(f"shard {shard.name}"))
                continue
            store.get_file(key, here, link=True)
            found = sha256_of(here)
            shards.append(Proof.of_hash(f"shard {shard.name}", found, shard.sha256, "the manifest"))
            if shards[-1].state == "verified":
                _add(content, here, samples[number])
    except (InputError, ValidationError, UnicodeDecodeError) as error:
        return [index, *shards, Proof.damaged("content", error)]
    if all(proof.state == "verified" for proof in (index, *shards)):
        decoded = Proof.of_hash("content", content.hexdigest(), digest, "the checkpoint")
    else:
        decoded = Proof.missing("content", "the dataset is not whole")
    return [index, *shards, decoded]


def _add(content: "hashlib._Hash", shard: Path, samples: Iterable[Sample]) -> None:
    """What the loader would return of a shard."""
    with TarReader(shard) as tar:
        for sample in samples:
            photo = decode_photo(tar.read(*sample.photo), sample.id)
            mask = decode_mask(tar.read(*sample.mask), sample.id)
            content.update(sample_digest(sample.id, photo, mask))
