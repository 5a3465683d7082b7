"""PASCAL VOC's devkit: its own lists say which photos have masks, who trains and who judges.

`ImageSets/Segmentation/{train,val,test}.txt` name ids; `JPEGImages/ID.jpg` is the photo, and
`SegmentationClass/ID.png` the mask. An archive may hold several devkits.
"""

import io
import re
from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath

from model.errors import InputError
from model.indexed_tar import Member, TarReader
from pipeline.archive import Archive
from pipeline.layouts.found import EXAMPLES, MASKS, PHOTOS, SHOWN, Found, pair, place, some

LIST = re.compile(r"(?P<root>(?:.*/)?)ImageSets/Segmentation/(?P<split>train|val|test)\.txt$")
LISTS = "ImageSets/Segmentation/train.txt, val.txt or test.txt"
_YEAR = re.compile(r"(?:^|/)VOC(\d{4})/$")
_MAX_LIST_BYTES = 64 << 20
_MAX_LINE = 4096  # characters, as PATH_MAX


def find_listed(
    archive: Archive, members: dict[str, Member], tar: TarReader, *, skip_missing: bool
) -> Found:
    """The listed pairs of one archive, split as its own lists have them.

    Raises InputError for an archive without lists, a list that is none, an id that one devkit lists
    both for training and for judging, and, unless they are skipped, ids without photo or mask.
    """
    lists = {name: match for name in sorted(members) if (match := LIST.match(name))}
    if not lists:
        raise InputError(
            f"{archive.source} has no {LISTS}; the layout of the PASCAL VOC devkit has one."
        )
    found = Found()
    missing = 0
    examples: list[str] = []
    for root in sorted({match["root"] for match in lists.values()}):
        photos = dict(_stems(members, f"{root}JPEGImages/", PHOTOS))
        masks = dict(_stems(members, f"{root}SegmentationClass/", MASKS))
        listed_in: dict[str, str] = {}  # id of a pair: split
        for name, match in lists.items():
            if match["root"] != root:
                continue
            split, called = match["split"], f"{archive.source}: {name}"
            where = place(members[name], archive, _MAX_LIST_BYTES)
            for stem in _read_list(tar.read(*where), called):
                photo, mask = photos.get(stem), masks.get(stem)
                if photo is None or mask is None:
                    missing += 1
                    if len(examples) < EXAMPLES:
                        examples.append(f"{stem[:SHOWN]} ({'mask' if photo else 'photo'})")
                    continue
                before = listed_in.get(stem)
                if before == split:
                    found.left_out["duplicate"] += 1
                    continue
                if before is not None:
                    raise InputError(
                        f"{archive.source}: {stem[:SHOWN]} is listed both in {before}.txt and in "
                        f"{split}.txt; a photo can only train or judge. Take it out of one list."
                    )
                listed_in[stem] = split
                found.pairs.append(pair(_identity(root, stem), archive, photo, mask, split=split))
        found.left_out["unlabelled"] += len(photos.keys() - masks.keys())
        found.left_out["unlisted"] += len((photos.keys() & masks.keys()) - listed_in.keys())
    if missing and not skip_missing:
        raise InputError(
            f"{archive.source} lists {missing} ids that lack a photo or a mask: "
            f"{some(examples, missing)}. Complete the archive, or leave them out with "
            "--skip-missing."
        )
    found.left_out["missing"] += missing
    return found


def _stems(
    members: dict[str, Member], folder: str, suffixes: tuple[str, ...]
) -> Iterator[tuple[str, Member]]:
    for name, member in members.items():
        if name.startswith(folder):
            suffix = PurePosixPath(name).suffix
            if suffix.lower() in suffixes:
                yield name[len(folder) : -len(suffix)], member


def _read_list(data: bytes, called: str) -> Iterator[str]:
    """The ids of a list, line by line; CRLF, trailing blanks and empty lines are harmless."""
    lines = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig")
    try:
        for number, line in enumerate(iter(partial(lines.readline, _MAX_LINE + 1), ""), 1):
            words = line.split()
            if len(line) > _MAX_LINE or len(words) > 1 or not "".join(words).isprintable():
                raise InputError(
                    f"{called}, line {number}: {line.strip()[:SHOWN]!r} is not one id of at most "
                    f"{_MAX_LINE} printable characters; give one a line."
                )
            yield from words
    except UnicodeDecodeError:
        raise InputError(f"{called} is not UTF-8 text; it must list one id a line.") from None


def _identity(root: str, stem: str) -> str:
    """One name for a photo whatever archive it is in: VOC 2012 calls 2007's 000032 2007_000032."""
    year = _YEAR.search(root)
    return f"{year[1]}_{stem}" if year and not re.match(r"\d{4}_", stem) else stem
