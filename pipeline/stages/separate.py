"""Separate: which photos have masks, and who trains and who judges.

An archive's layout says which mask belongs to which photo. A devkit's own lists also say who
judges; pairs without lists are split by groups, such as the views of one car, that stay together.
A photo that judges anywhere (val, then test) trains nowhere: photos are compared by id and by
content, so that VOC 2007 and 2012, which share photos under different names, can be merged. The
order of archives, of lines in a list and of files in a folder changes nothing.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from infra.stores import Store
from model.errors import InputError
from model.indexed_tar import TarReader
from pipeline.archive import Archive, local_tar, must_be_unchanged, read_archive_index
from pipeline.layouts.found import SHOWN, Pair
from pipeline.layouts.layout import Layout
from pipeline.layouts.recognise import find_pairs
from pipeline.progress import Progress, silent

_FORMAT = 3
# Who may keep a photo that several lists claim: judging comes before training.
_PRECEDENCE = ("val", "test", "train")
_REASONS = ("unlabelled", "unlisted", "missing", "duplicate", "withheld")


class Separation(BaseModel):
    """All pairs in the order of (split, id), and what was left out and why."""

    model_config = ConfigDict(frozen=True)

    key: str
    pairs: tuple[Pair, ...]
    unlabelled: int  # photos without a mask
    unlisted: int  # photos with a mask that no list names
    missing: int  # listed ids without photo or mask, masks without photo; refused unless skipped
    duplicate: int  # pairs whose photo the same split has already, by another line of a list
    withheld: int  # pairs whose photo another split has: val before test before train

    def count(self, split: str) -> int:
        """Number of pairs in a split."""
        return sum(pair.split == split for pair in self.pairs)

    def left_out(self) -> dict[str, int]:
        """What did not become a pair, by reason."""
        return self.model_dump(include=set(_REASONS))


def separate(
    archives: Iterable[Archive],
    store: Store,
    spool: Path,
    *,
    layout: Layout = Layout(),  # noqa: B008  # it is frozen
    skip_missing: bool = False,
    needed: tuple[str, ...] = ("train", "val"),
    report: Progress = silent,
) -> tuple[Separation, bool]:
    """Find and split the pairs of all archives; True when that had been done before.

    Raises InputError for an archive that does not have the layout, ids without photo or mask, an id
    that one archive lists both for training and for validation, one name for different photos, an
    archive that changes meanwhile, and when nothing is left of a split that is needed.
    """
    by_hash = {archive.sha256: archive for archive in archives}
    inputs = {
        "format": _FORMAT,
        "archives": sorted(by_hash),
        "layout": layout.model_dump(exclude={"mask_values"}),  # which are about pixels
        "skip_missing": skip_missing,
    }
    key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]
    name = f"splits/{key}.json"
    done = store.read_whole(name, Separation)
    if done and done.key == key:
        _must_have(needed, done, by_hash.values())
        return done, True

    listed: list[tuple[Pair, bytes]] = []  # a pair and the hash of its photo
    counts: Counter[str] = Counter()
    for number, archive in enumerate(by_hash.values()):
        members = {m.name: m for m in read_archive_index(archive, store, spool)}
        with TarReader(local_tar(archive, store, spool)) as tar:
            found = find_pairs(archive, members, tar, layout, skip_missing=skip_missing)
            counts.update(found.left_out)
            for done_here, pair in enumerate(found.pairs, 1):
                listed.append((pair, hashlib.sha256(tar.read(*pair.photo)).digest()))
                report(number + done_here / len(found.pairs), len(by_hash))
            must_be_unchanged(archive, tar)

    sources = {archive.sha256: archive.source for archive in by_hash.values()}
    _must_be_one_photo_a_name(listed, sources)
    listed = _decided(listed, layout.val_share)
    kept: list[Pair] = []
    for first, *others in _same_photo(listed):
        kept.append(first)
        for pair in others:
            counts["duplicate" if pair.split == first.split else "withheld"] += 1
    separation = Separation(
        key=key,
        pairs=tuple(sorted(kept, key=lambda pair: (pair.split, pair.id))),
        **{reason: counts[reason] for reason in _REASONS},
    )
    _must_have(needed, separation, by_hash.values())
    store.write(name, separation)
    return separation, False


def _must_have(needed: Iterable[str], found: Separation, archives: Iterable[Archive]) -> None:
    for split in needed:
        if not found.count(split):
            sources = ", ".join(archive.source for archive in archives)
            raise InputError(
                f"No pair is left in the {split} list of {sources}; name an archive with more "
                "photos that have masks, or a devkit whose "
                f"ImageSets/Segmentation/{split}.txt lists them."
            )


def _must_be_one_photo_a_name(listed: list[tuple[Pair, bytes]], sources: dict[str, str]) -> None:
    """Folders of different people call different photos 0001; only devkits agree on their ids."""
    in_folders = {pair.id: (pair, content) for pair, content in listed if pair.group is not None}
    for pair, content in listed:
        other, known = in_folders.get(pair.id, (pair, content))
        if content != known:
            places = " and ".join(f"{sources[p.archive]}: {p.photo_name}" for p in (pair, other))
            raise InputError(
                f"Two different photos are called {pair.id[:SHOWN]}: {places}. Rename one, or pack "
                "the folders of each archive into a folder of its own."
            )


def _decided(listed: list[tuple[Pair, bytes]], val_share: float) -> list[tuple[Pair, bytes]]:
    """The same pairs, those in groups divided between train and val."""
    groups = {pair.group for pair, _ in listed if pair.group is not None}
    if not groups:
        return listed
    judging = validation_groups(groups, val_share)
    return [
        (pair.model_copy(update={"split": "val" if pair.group in judging else "train"}), content)
        if pair.group is not None
        else (pair, content)
        for pair, content in listed
    ]


def validation_groups(groups: Iterable[str], share: float) -> frozenset[str]:
    """The groups that validate: those whose sha256 over 2**256 is below `share`.

    A matter of a group's own name, so that groups which come later move nobody: what once judged
    has not trained a checkpoint of yesterday that is scored again. Only where a side would stay
    empty, it gets the group next to it: the lowest hash validates, or the highest trains. Raises
    InputError when there is only one group.
    """
    hashes = {name: hashlib.sha256(name.encode()).digest() for name in groups}
    if len(hashes) < 2:
        raise InputError(
            f"All photos with masks are of one group, {min(hashes)[:SHOWN]!r}, but one group must "
            "train and another validate; add photos, or say what belongs together with --layout "
            "group=…."
        )
    # Exact: Python compares an int with a float by value, and times a power of two rounds nothing.
    below = sum(int.from_bytes(digest) < share * 2**256 for digest in hashes.values())
    ordered = sorted(hashes, key=hashes.__getitem__)
    return frozenset(ordered[: min(max(1, below), len(ordered) - 1)])


def _same_photo(listed: list[tuple[Pair, bytes]]) -> Iterator[list[Pair]]:
    """Group the pairs that show one photo, the one to keep first.

    Pairs are joined by an id or a content they share, and by whatever joins those in turn: a
    training photo may meet the validation photo only by way of a third that has the id of one and
    the content of the other.
    """
    parent: dict[str | bytes, str | bytes] = {}

    def root(name: str | bytes) -> str | bytes:
        while (above := parent.setdefault(name, name)) != name:
            parent[name] = name = parent[above]
        return name

    for pair, content in listed:
        parent[root(content)] = root(pair.id)
    groups: dict[str | bytes, list[Pair]] = {}
    for pair, _ in listed:
        groups.setdefault(root(pair.id), []).append(pair)
    for group in groups.values():
        yield sorted(group, key=lambda p: (_PRECEDENCE.index(p.split), p.id, p.archive, p.photo))
