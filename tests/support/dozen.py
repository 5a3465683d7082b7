"""Small archives for whole runs: a dozen real photos where there are some, else generated ones."""

import tarfile
from itertools import islice
from pathlib import Path, PurePosixPath

from devkit import devkit, mask_of, palette_png
from folder_archives import binary, carvana
from photos import archive_for
from pipeline.layouts.devkit import LIST
from tars import pack

COUNTS = {"train": 8, "val": 4}


def dozen(recipe: str, path: Path) -> Path:
    """Write an archive of twelve pairs of the kind that a recipe is for; return its path.

    It has the layout of the whole archive: a devkit's lists are shortened to `COUNTS`, of Carvana
    there are three cars.
    """
    # As it stands, simple-fcn is for two classes.
    whole = archive_for("people-" if recipe == "simple-fcn" else recipe)
    if not whole.exists():
        return _generated(recipe, path)
    with tarfile.open(whole) as tar:
        members = {member.name: member for member in tar if member.isfile()}
        files: dict[str, bytes] = {}
        wanted: list[str] = []
        for name in members:
            if listed := LIST.match(name):
                ids = _read(tar, members[name]).split()[: COUNTS[listed["split"]]]
                files[name] = b"\n".join(ids)
                wanted += map(bytes.decode, ids)
        if not files:
            wanted = list(islice(map(_stem, members), sum(COUNTS.values())))
        files |= {name: _read(tar, members[name]) for name in members if _stem(name) in wanted}
    return pack(path, files)


def last_photo(archive: Path, folder: Path) -> Path:
    """An archive's last photo, put into a folder; of a devkit it is one that validates."""
    with tarfile.open(archive) as tar:
        *_, last = (member for member in tar if member.name.endswith(".jpg"))
        path = folder / PurePosixPath(last.name).name
        path.write_bytes(_read(tar, last))
    return path


def _generated(recipe: str, path: Path) -> Path:
    if recipe.startswith("carvana-"):
        return carvana(path, [f"car{car}_{view:02}" for car in range(3) for view in range(4)])
    ids = {split: [f"{split}{n}" for n in range(count)] for split, count in COUNTS.items()}
    drawn = binary if recipe.startswith(("people-", "simple-")) else mask_of
    masks = {name: palette_png(drawn(name)) for names in ids.values() for name in names}
    return devkit(path, **ids, masks=masks)


def _stem(name: str) -> str:
    return PurePosixPath(name).stem.removesuffix("_mask")


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file
    return file.read()
