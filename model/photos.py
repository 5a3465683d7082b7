"""Which photos to predict: files, folders, globs and URLs; and their pixels, as a person sees them.

Unlike the samples of a dataset these come from anywhere, so EXIF turns them, 16-bit, grey and
transparent ones become plain RGB, and a broken one is told from a whole one.
"""

import glob
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple
from urllib.parse import unquote, urlsplit

import fsspec
import numpy as np
import PIL.Image
from PIL import ImageOps

from model.errors import InputError
from model.images import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP")
_MOST_BYTES, _PIECE = 1 << 30, 1 << 24  # a URL may have no end
# The suffixes that the disk is asked for; a photo with any other, like .jPg, keeps its whole name.
_ASKED_FOR = (*SUFFIXES, *(suffix.upper() for suffix in SUFFIXES))
_SORTED = 1000  # names of a folder that are in memory at a time

_Pattern = tuple[str, ...]  # a glob, part by part
_ANYTHING: _Pattern = ("**",)


class Found(NamedTuple):
    """A photo: its path or URL, what a person calls it, and what its outputs are called.

    `target` is relative to the folder of the outputs; what is written adds a suffix to it.
    """

    address: str
    name: str
    target: PurePosixPath


class Photos:
    """The photos that a person named; iterate as often as needed.

    A folder stands for the photos below it, a glob for those that it matches and those below the
    folders that it matches; a URL (http, or whatever fsspec finds installed) is one photo. A folder
    is listed bit by bit, so one with a million photos takes no more memory than one with a
    thousand, and comes in the order of the names where it holds no more than that. Links to folders
    are followed where they are named or matched, not when searching what is below (nor by `**`).

    The outputs keep the folders below what all paths have in common, and the photo's whole name
    where another one differs only in its suffix, so none overwrites another's.
    """

    def __init__(self, paths: Iterable[str], out: Path) -> None:
        """What lies in `out` is no photo. Raises InputError for a path that is not there."""
        self._out = out.resolve()
        named = list(dict.fromkeys(paths))
        places = [self._place(path) for path in named if "://" not in path]
        folders = {path for path, pattern in places if path.is_dir() and not pattern}
        # What lies in a folder that was named as well would come twice.
        places = [(path, pattern) for path, pattern in places if not folders & {*path.parents}]
        tops = [path if path.is_dir() else path.parent for path, _ in places]
        self._top = Path(os.path.commonpath(tops)) if tops else Path()
        self._files = [self._found(str(path)) for path, _ in places if not path.is_dir()]
        self._folders = [
            (str(path), pattern or _ANYTHING) for path, pattern in places if path.is_dir()
        ]
        self._urls = list(_told_apart([_url(url) for url in named if "://" in url]))
        if self._urls and not tops:  # beside local photos they stay in a folder of their host
            top = os.path.commonpath([found.target.parent for found in self._urls])
            self._urls = [f._replace(target=f.target.relative_to(top)) for f in self._urls]

    def __iter__(self) -> Iterator[Found]:
        yield from _distinct(self._files)
        for path in self._searched():
            found = self._found(path)
            yield _without_suffix(found) if _alone(path) else found
        yield from _distinct(self._urls)

    def count(self) -> int:
        """How many there are now, by a search of its own."""
        return len(self._files) + len(self._urls) + sum(1 for _ in self._searched())

    def _place(self, path: str) -> tuple[Path, _Pattern]:
        """Where a file or folder is; of a glob, the folder above it, and its pattern."""
        if not path:
            raise InputError("A path of no photo is empty; name a file, a folder or a URL.")
        plain = Path(path).expanduser()
        pattern: _Pattern = ()
        if not plain.exists():
            parts = plain.parts
            fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
            plain, pattern = Path(*parts[:fixed]), parts[fixed:]
            if not pattern or not plain.is_dir():
                raise InputError(f"There is no photo or folder {path}.")
        place = plain.resolve() if plain.is_dir() else plain.parent.resolve() / plain.name
        if place.is_relative_to(self._out):
            raise InputError(f"{path} lies in {self._out}, where the outputs go; name another.")
        return place, pattern

    def _searched(self) -> Iterator[str]:
        for folder, pattern in self._folders:
            yield from self._below(folder, _matching(pattern))

    def _below(self, folder: str, patterns: frozenset[_Pattern]) -> Iterator[str]:
        """The paths of photos in `folder` that match one of the patterns, each path once."""
        for entry in _entries(folder):
            if not _is_folder(entry):
                if () in _after(entry.name, patterns) and _is_photo(entry.name):
                    yield entry.path
                continue
            if entry.is_symlink():  # which may lead back: each has to use up a part of the pattern
                patterns_there = _after(entry.name, {p for p in patterns if p[:1] != _ANYTHING})
            else:
                patterns_there = _after(entry.name, patterns)
            if () in patterns_there:
                patterns_there = _matching(_ANYTHING)
            if patterns_there and not Path(entry.path).resolve().is_relative_to(self._out):
                yield from self._below(entry.path, patterns_there)

    def _found(self, path: str) -> Found:
        shown = "".join(sign if sign.isprintable() else "�" for sign in path)
        return Found(path, shown, PurePosixPath(Path(path).relative_to(self._top)))


def _entries(folder: str) -> Iterator["os.DirEntry[str]"]:
    """What lies in a folder, its folders last, sorted by name; nothing where it cannot be read."""
    with suppress(OSError), os.scandir(folder) as entries:
        while some := list(islice(entries, _SORTED)):
            yield from sorted(some, key=lambda entry: (_is_folder(entry), entry.name))


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _matching(pattern: _Pattern) -> frozenset[_Pattern]:
    """The pattern, and what is left of it where its first `**` stand for no folder at all."""
    rest = {pattern}
    while pattern[:1] == _ANYTHING:
        pattern = pattern[1:]
        rest.add(pattern)
    return frozenset(rest)


def _after(name: str, patterns: Iterable[_Pattern]) -> frozenset[_Pattern]:
    """What has to match below `name`, an entry of a folder; () among it: `name` itself matches.

    As in a shell, only a part that begins with a dot matches a name that does.
    """
    rest: set[_Pattern] = set()
    for pattern in patterns:
        if not pattern or (name.startswith(".") and not pattern[0].startswith(".")):
            continue
        if pattern[:1] == _ANYTHING:
            rest |= _matching(pattern)
        elif fnmatch(name, pattern[0]):
            rest |= _matching(pattern[1:])
    return frozenset(rest)


def _alone(path: str) -> bool:
    """Whether no photo in its folder would give its outputs the names that this one would."""
    suffix = PurePosixPath(path).suffix
    if suffix not in _ASKED_FOR:
        return False
    stem = path.removesuffix(suffix)
    others = [stem + other for other in _ASKED_FOR if other != suffix]
    if _is_photo(stem):  # a.jpg.png: its outputs must not be those of a.jpg
        others.append(stem)
    return not any(os.path.lexists(other) and not _same(path, other) for other in others)


def _same(path: str, other: str) -> bool:
    """As a.jpg and a.JPG are, where the case of names is of no account."""
    with suppress(OSError):
        return os.path.samestat(os.lstat(path), os.lstat(other))
    return False


def _told_apart(photos: list[Found]) -> Iterator[Found]:
    """URLs that differ only in what does not name a file, such as their query, get a mark."""
    taken = Counter(found.target for found in photos)
    for found in photos:
        mark = hashlib.sha256(found.address.encode()).hexdigest()[:8]
        marked = f"{found.target.stem}-{mark}{found.target.suffix}"
        once = taken[found.target] == 1
        yield found if once else found._replace(target=found.target.with_name(marked))


def _distinct(photos: list[Found]) -> Iterator[Found]:
    """Leave the suffixes away from their targets, where that makes no two the same."""
    taken = Counter(target for f in photos for target in {f.target, f.target.with_suffix("")})
    for found in photos:
        short = _without_suffix(found)
        yield short if taken[short.target] == 1 else found


def _without_suffix(found: Found) -> Found:
    return found._replace(target=found.target.with_suffix(""))


def read_photo(found: Found) -> Image:
    """Its pixels, uint8 [H, W, 3] in RGB, upright; InputError when they cannot be had."""
    data = _bytes(found)
    try:
        picture: PIL.Image.Image = PIL.Image.open(io.BytesIO(data), formats=_FORMATS)
        picture.load()
        with suppress(Exception):  # EXIF that is junk turns nothing
            picture = ImageOps.exif_transpose(picture)
        if picture.mode.startswith("I;16"):  # Pillow would turn every value over 255 into white
            picture = PIL.Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
        return np.array(picture.convert("RGB"))
    except PIL.Image.DecompressionBombError:
        raise InputError(f"{found.name} unpacks to far more pixels than any photo.") from None
    except Exception as error:  # junk makes Pillow raise whatever there is
        said = f" ({error})" if isinstance(error, OSError) and str(error)[:6] != "cannot" else ""
        raise InputError(
            f"{found.name} is damaged, or none of {', '.join(_FORMATS)}{said}."
        ) from None


def _bytes(found: Found) -> bytes:
    data = bytearray()
    try:
        with _opened(found) as file:
            # A server that does not say how much there is gives it piece by piece.
            while len(data) <= _MOST_BYTES and (piece := file.read(_PIECE)):
                data += piece
    except InputError:
        raise
    except FileNotFoundError:
        # fsspec says the same of a page that is not there and of a server that fails.
        refused = ", or its server does not give it" if "://" in found.address else ""
        raise InputError(f"{found.name} does not exist{refused}; check its name.") from None
    except (ValueError, ImportError):
        raise InputError(
            f"{found.name} cannot be opened: its protocol is unknown here, or needs fsspec's "
            "package for it."
        ) from None
    except Exception as error:  # whatever a file system raises; its text may hold the URL's query
        why = (isinstance(error, OSError) and error.strerror) or type(error).__name__
        raise InputError(f"{found.name} cannot be read ({why}).") from None
    if len(data) > _MOST_BYTES:
        raise InputError(f"{found.name} has over {_MOST_BYTES >> 30} GiB; it is no photo.")
    return bytes(data)


def _opened(found: Found) -> AbstractContextManager[BinaryIO]:
    """The file or URL, for reading."""
    if "://" in found.address:
        opened: AbstractContextManager[BinaryIO] = fsspec.open(found.address, "rb")
        return opened
    path = Path(found.address)
    if path.exists() and not path.is_file():  # a pipe is waited for, a device may have no end
        raise InputError(f"{found.name} is no file.")
    return path.open("rb")


def _is_photo(name: str) -> bool:
    """Whether a file in a folder is called like a photo; `._IMG.jpg` is what macOS adds to one."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _url(url: str) -> Found:
    """The photo at a URL: its name has no secrets, its target begins with the host."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise InputError("A URL among the paths is none; check its brackets and signs.") from None
    if "@" in parts.path + parts.query + parts.fragment or "%00" in parts.path:
        # It may be the rest of a password, so nothing of it is shown.
        raise InputError("A URL among the paths has an @ or a zero in its path; write @ as %40.")
    host, path = parts.netloc.rpartition("@")[2], unquote(parts.path)
    steps = [step for step in path.split("/") if step not in ("", ".", "..")]  # none leads out
    if not steps:
        raise InputError(f"{parts.scheme}://{host} names no photo; add its path.")
    target = PurePosixPath(host.replace(":", "_"), *steps)
    return Found(url, f"{parts.scheme}://{host}{path}", target)
