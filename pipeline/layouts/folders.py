"""Two folders side by side, one of photos and one of masks: pairs have the same path below them.

Carvana's layout is this one by other names. Nobody says who trains and who judges, so each pair
carries the group that must stay together, and the split is decided over all of them later.
"""

import json
import re
import subprocess
import sys
from pathlib import PurePosixPath

from model.errors import InputError
from model.indexed_tar import Member
from pipeline.archive import Archive
from pipeline.layouts.found import MASKS, PHOTOS, SHOWN, Found, pair, some
from pipeline.layouts.layout import Layout

# A pattern can take for ever on a name made for it, and a thread cannot be stopped: a process can.
_MATCH = """
import json, re, sys
pattern, names = json.load(sys.stdin)
json.dump([found and found[1] for found in map(re.compile(pattern).fullmatch, names)], sys.stdout)
"""
_MATCH_SECONDS = 60.0


def roots_of(members: dict[str, Member], layout: Layout) -> list[str]:
    """The folders ("" or "a/b/") that hold both the folder of photos and that of masks."""

    def above(folder: str) -> set[str]:
        # Lazily, so that it is the outermost folder of that name.
        inside = re.compile(rf"((?:[^/]+/)*?){re.escape(folder)}/")
        return {found[1] for name in members if (found := inside.match(name))}

    return sorted(above(layout.photos) & above(layout.masks))


def find_in_folders(
    archive: Archive, members: dict[str, Member], layout: Layout, *, skip_missing: bool
) -> Found:
    """The pairs of one archive, each in its group and in no split.

    Raises InputError for an archive without the two folders or without a mask, two photos or two
    masks of one name, a photo that the group's pattern does not fit, and, unless they are skipped,
    masks without a photo.
    """
    roots = roots_of(members, layout)
    if not roots:
        raise InputError(
            f"{archive.source} has no folders {layout.photos} and {layout.masks} side by side, but "
            f"{tops(members)}; name them with --layout photos=… and --layout masks=…."
        )
    paired: list[tuple[str, str, Member, Member]] = []  # root, name below it, photo, mask
    astray: list[str] = []
    found = Found()
    for root in roots:
        photos = _files(archive, members, f"{root}{layout.photos}/", PHOTOS)
        masks = _files(archive, members, f"{root}{layout.masks}/", MASKS)
        before = len(paired)
        for stem, mask in masks.items():
            name = stem.removesuffix(layout.mask_suffix)
            if stem.endswith(layout.mask_suffix) and name in photos:
                paired.append((root, name, photos[name], mask))
            else:
                astray.append(mask.name)
        found.left_out["unlabelled"] += len(photos) - (len(paired) - before)
    if not paired and not astray:
        raise InputError(
            f"{archive.source} has no mask in {roots[0]}{layout.masks}; masks are "
            f"{', '.join(MASKS)} (JPEG would blur them)."
        )
    if astray and not skip_missing:
        raise InputError(
            f"{archive.source} has {len(astray)} masks without a photo: "
            f"{some([name[-SHOWN:] for name in astray], len(astray))}. Complete the archive, say "
            "how masks are named with --layout mask_suffix=…, or leave them out with "
            "--skip-missing."
        )
    found.left_out["missing"] += len(astray)
    groups = _groups(archive, [name for _, name, _, _ in paired], layout.group)
    found.pairs = [
        pair(f"{root}{name}", archive, photo, mask, group=group or f"{root}{name}")
        for (root, name, photo, mask), group in zip(paired, groups, strict=True)
    ]
    return found


def tops(members: dict[str, Member]) -> str:
    """What lies at the top of an archive, for a message."""
    folders = sorted({name.partition("/")[0][:SHOWN] for name in members if "/" in name})
    return f"its top folders are {some(folders, len(folders))}" if folders else "no folder at all"


def _files(
    archive: Archive, members: dict[str, Member], folder: str, suffixes: tuple[str, ...]
) -> dict[str, Member]:
    """The files of these kinds below a folder, by their path there without the extension."""
    files: dict[str, Member] = {}
    for name, member in members.items():
        suffix = PurePosixPath(name).suffix
        if not name.startswith(folder) or suffix.lower() not in suffixes:
            continue
        stem = name[len(folder) : -len(suffix)]
        if stem in files:
            raise InputError(
                f"{archive.source} has both {files[stem].name[-SHOWN:]} and {name[-SHOWN:]}; one "
                "of them is too many, as names are compared without their extension."
            )
        files[stem] = member
    return files


def _groups(archive: Archive, names: list[str], pattern: str | None) -> list[str | None]:
    """The group of each name; None where every photo is a group of its own."""
    if pattern is None:
        return [None] * len(names)
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-W", "ignore", "-c", _MATCH],
            input=json.dumps([pattern, names]),
            capture_output=True,
            text=True,
            timeout=_MATCH_SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise InputError(
            f"The group {pattern!r} takes longer than {_MATCH_SECONDS:g} s for the photos of "
            f"{archive.source}; write it without a repetition inside a repetition."
        ) from None
    groups: list[str | None] = json.loads(done.stdout)
    if not all(groups):
        name = next(name for name, group in zip(names, groups, strict=True) if not group)
        raise InputError(
            f"{archive.source}: the photo {name[-SHOWN:]} does not fit the group {pattern!r}; "
            "rename it, or say kind=folders and another group with --layout."
        )
    return groups
