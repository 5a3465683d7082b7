"""Separate: which photos have masks, and who trains and who judges.

Pairs are found by the devkit's own lists, `ImageSets/Segmentation/{train,val,test}.txt`. A photo
that judges anywhere (val, then test) trains nowhere: photos are compared by id and by content, so
that VOC 2007 and 2012, which share photos under different names, can be merged. The order of
archives and of lines in a list changes nothing.
"""

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict

from infra.stores import Store
from model.errors import InputError
from model.indexed_tar import Member, TarReader
from pipeline.archive import Archive, local_tar, must_be_unchanged, read_archive_index
from pipeline.progress import Progress, silent

_FORMAT = 1
_LIST = re.compile(r"(?P<root>(?:.*/)?)ImageSets/Segmentation/(?P<split>train|val|test)\.txt$")
_YEAR = re.compile(r"(?:^|/)VOC(\d{4})/$")
# Who may keep a photo that several lists claim: judging comes before training.
_PRECEDENCE = ("val", "test", "train")
_REASONS = ("unlabelled", "unlisted", "missing", "duplicate", "withheld")
_MAX_BYTES = 256 << 20  # of one photo or mask: they are read into memory whole
_MAX_LIST_BYTES = 64 << 20
_MAX_LINE = 4096  # characters, as PATH_MAX
_SHOWN = 100  # characters of an id in a message


class Pair(BaseModel):
    """A photo and its mask: where they lie in which archive, as (offset, size) in bytes."""

    model_config = ConfigDict(frozen=True)

    id: str
    split: str
    archive: str
    photo: tuple[int, int]
    mask: tuple[int, int]
    photo_name: str
    mask_name: str


class Separation(BaseModel):
    """All pairs in the order of (split, id), and what was left out and why."""

    model_config = ConfigDict(frozen=True)

    key: str
    pairs: tuple[Pair, ...]
    unlabelled: int  # photos without a mask
    unlisted: int  # photos with a mask that no list names
    missing: int  # listed ids without photo or mask; refused unless asked to skip them
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
    skip_missing: bool = False,
    needed: tuple[str, ...] = ("train", "val"),
    report: Progress = silent,
) -> tuple[Separation, bool]:
    """Find and split the pairs of all archives; True when that had been done before.

    Raises InputError for archives without lists, ids without photo or mask, an id that one archive
    lists both for training and for validation, an archive that changes meanwhile, and when nothing
    is left of a split that is needed.
    """
    by_hash = {archive.sha256: archive for archive in archives}
    inputs = {"format": _FORMAT, "archives": sorted(by_hash), "skip_missing": skip_missing}
    key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]
    name = f"splits/{key}.json"
    if done := store.read(name, Separation):
        _must_have(needed, done, by_hash.values())
        return done, True

    listed: list[tuple[Pair, bytes]] = []  # a pair and the hash of its photo
    counts: Counter[str] = Counter()
    for number, archive in enumerate(by_hash.values()):
        members = {m.name: m for m in read_archive_index(archive, store, spool)}
        with TarReader(local_tar(archive, store, spool)) as tar:
            pairs = _pairs_of(archive, members, tar, counts, skip_missing)
            for done_here, pair in enumerate(pairs, 1):
                listed.append((pair, hashlib.sha256(tar.read(*pair.photo)).digest()))
                report(number + done_here / len(pairs), len(by_hash))
            must_be_unchanged(archive, tar)

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
                f"No pair is left in the {split} list of {sources}; name an archive whose "
                f"ImageSets/Segmentation/{split}.txt lists photos with masks."
            )


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


def _pairs_of(
    archive: Archive,
    members: dict[str, Member],
    tar: TarReader,
    counts: Counter[str],
    skip_missing: bool,
) -> list[Pair]:
    """The listed pairs of one archive, as its own lists have them."""
    lists = {name: match for name in sorted(members) if (match := _LIST.match(name))}
    if not lists:
        raise InputError(
            f"{archive.source} has no ImageSets/Segmentation/train.txt, val.txt or test.txt; it "
            "must have the layout of the PASCAL VOC devkit."
        )
    pairs: list[Pair] = []
    missing = 0
    examples: list[str] = []
    for root in sorted({match["root"] for match in lists.values()}):
        photos = dict(_stems(members, f"{root}JPEGImages/", (".jpg", ".jpeg", ".png")))
        masks = dict(_stems(members, f"{root}SegmentationClass/", (".png", ".gif", ".bmp")))
        listed_in: dict[str, str] = {}  # id of a pair: split
        for name, match in lists.items():
            if match["root"] != root:
                continue
            split, called = match["split"], f"{archive.source}: {name}"
            place = _place(members[name], archive, _MAX_LIST_BYTES)
            for stem in _read_list(tar.read(*place), called):
                photo, mask = photos.get(stem), masks.get(stem)
                if photo is None or mask is None:
                    missing += 1
                    if len(examples) < 3:
                        examples.append(f"{stem[:_SHOWN]} ({'mask' if photo else 'photo'})")
                    continue
                before = listed_in.get(stem)
                if before == split:
                    counts["duplicate"] += 1
                    continue
                if before is not None:
                    raise InputError(
                        f"{archive.source}: {stem[:_SHOWN]} is listed both in {before}.txt and in "
                        f"{split}.txt; a photo can only train or judge. Take it out of one list."
                    )
                listed_in[stem] = split
                pairs.append(
                    Pair(
                        id=_identity(root, stem),
                        split=split,
                        archive=archive.sha256,
                        photo=_place(photo, archive, _MAX_BYTES),
                        mask=_place(mask, archive, _MAX_BYTES),
                        photo_name=photo.name,
                        mask_name=mask.name,
                    )
                )
        counts["unlabelled"] += len(photos.keys() - masks.keys())
        counts["unlisted"] += len((photos.keys() & masks.keys()) - listed_in.keys())
    if missing and not skip_missing:
        named = ", ".join(examples) + (", …" if missing > len(examples) else "")
        raise InputError(
            f"{archive.source} lists {missing} ids that lack a photo or a mask: {named}. "
            "Complete the archive, or leave them out with --skip-missing."
        )
    counts["missing"] += missing
    return pairs


def _stems(
    members: dict[str, Member], folder: str, suffixes: tuple[str, ...]
) -> Iterator[tuple[str, Member]]:
    for name, member in members.items():
        path = PurePosixPath(name)
        if name.startswith(folder) and path.suffix.lower() in suffixes:
            yield name[len(folder) : -len(path.suffix)], member


def _place(member: Member, archive: Archive, most: int) -> tuple[int, int]:
    """Where a member lies, (offset, size) in bytes; InputError when it would fill the memory."""
    if member.size > most:
        raise InputError(
            f"{archive.source}: {member.name} has {member.size:,} bytes, over the limit of "
            f"{most:,} for its kind; take it out of the archive."
        )
    return member.offset, member.size


def _read_list(data: bytes, called: str) -> Iterator[str]:
    """The ids of a list, line by line; CRLF, trailing blanks and empty lines are harmless."""
    lines = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig")
    try:
        for number, line in enumerate(iter(partial(lines.readline, _MAX_LINE + 1), ""), 1):
            words = line.split()
            if len(line) > _MAX_LINE or len(words) > 1 or not "".join(words).isprintable():
                raise InputError(
                    f"{called}, line {number}: {line.strip()[:_SHOWN]!r} is not one id of at most "
                    f"{_MAX_LINE} printable characters; give one a line."
                )
            yield from words
    except UnicodeDecodeError:
        raise InputError(f"{called} is not UTF-8 text; it must list one id a line.") from None


def _identity(root: str, stem: str) -> str:
    """One name for a photo whatever archive it is in: VOC 2012 calls 2007's 000032 2007_000032."""
    year = _YEAR.search(root)
    return f"{year[1]}_{stem}" if year and not re.match(r"\d{4}_", stem) else stem
