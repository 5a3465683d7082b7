"""Which layout an archive has, and its pairs by that layout."""

import re

from model.errors import InputError
from model.indexed_tar import Member, TarReader
from pipeline.archive import Archive
from pipeline.layouts.devkit import LIST, LISTS, find_listed
from pipeline.layouts.folders import find_in_folders, roots_of, tops
from pipeline.layouts.found import Found
from pipeline.layouts.layout import CARVANA, Kind, Layout

_CARVANA_PHOTO = re.compile(r"((?:.*/)?)train/[^/]+\.jpg$")
_CARVANA_MASK = re.compile(r"((?:.*/)?)train_masks/[^/]+_mask\.gif$")


def find_pairs(
    archive: Archive,
    members: dict[str, Member],
    tar: TarReader,
    layout: Layout,
    *,
    skip_missing: bool,
) -> Found:
    """The pairs of one archive by the layout that is given, or that the archive has.

    Raises InputError for an archive that has no layout that is understood, and as the layouts do.
    """
    kind = layout.kind
    if kind == "auto":
        kind = "folders" if layout.names_folders else _kind_of(archive, members, layout)
    if kind == "devkit":
        return find_listed(archive, members, tar, skip_missing=skip_missing)
    folders = CARVANA if kind == "carvana" else layout
    return find_in_folders(archive, members, folders, skip_missing=skip_missing)


def _kind_of(archive: Archive, members: dict[str, Member], layout: Layout) -> Kind:
    if any(LIST.match(name) for name in members):
        return "devkit"
    if _roots(members, _CARVANA_PHOTO) & _roots(members, _CARVANA_MASK):
        return "carvana"
    if roots_of(members, layout):
        return "folders"
    raise InputError(
        f"{archive.source} has no {LISTS} (the layout of the PASCAL VOC devkit), no train/*.jpg "
        "with train_masks/*_mask.gif (Carvana's), and no folders images and masks side by side, "
        f"but {tops(members)}; name two folders with --layout photos=… and --layout masks=…."
    )


def _roots(members: dict[str, Member], pattern: re.Pattern[str]) -> set[str]:
    return {found[1] for name in members if (found := pattern.match(name))}
