"""Which photos to predict: files, folders, globs and URLs; and their pixels, as a person sees them.

Unlike the samples of a dataset these come from anywhere, so EXIF turns them, 16-bit, grey and
transparent ones become plain RGB, and a broken one is told from a whole one.
"""

import glob
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import fsspec
import numpy as np
import PIL.Image
from PIL import ImageOps

from model.errors import InputError
from model.images import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP")
_MOST_BYTES = 1 << 30  # a URL may have no end


class Found(NamedTuple):
    """A photo: its path or URL, what a person calls it, and what its outputs are called.

    `target` is relative to the folder of the outputs; what is written adds a suffix to it.
    """

    address: str
    name: str
    target: PurePosixPath


class Photos:
    """The photos that a person named, in an order that does not change; iterate as often as needed.

    A folder stands for the photos below it, a glob for those that it matches; a URL (http, or
    whatever fsspec finds installed) is one photo. No more names than those in one folder, or of one
    glob, are in memory. The outputs keep the folders below what all paths have in common, and the
    photo's whole name where another one differs only in its suffix, so none overwrites another's.
    """

    def __init__(self, paths: Iterable[str], out: Path) -> None:
        """What lies in `out` is no photo. Raises InputError for a path that is not there."""
        self._out = out.resolve()
        named = list(dict.fromkeys(paths))
        places = [self._place(path) for path in named if "://" not in path]
        folders = {path for path, pattern in places if path.is_dir() and not pattern}
        # What lies in a folder that was named as well would come twice.
        places = [(path, pattern) for path, pattern in places if not folders & {*path.parents}]
        self._files = [path for path, _ in places if not path.is_dir()]
        self._folders = [(path, pattern) for path, pattern in places if path.is_dir()]
        tops = [path if path.is_dir() else path.parent for path, _ in places]
        self._top = Path(os.path.commonpath(tops)) if tops else Path()
        self._urls = [_url(url) for url in named if "://" in url]
        if self._urls and not tops:  # beside local photos they stay in a folder of their host
            top = os.path.commonpath([found.target.parent for found in self._urls])
            self._urls = [f._replace(target=f.target.relative_to(top)) for f in self._urls]

    def __iter__(self) -> Iterator[Found]:
        yield from self._named(self._files)
        for folder, pattern in self._folders:
            yield from self._matches(folder, pattern) if pattern else self._below(folder)
        yield from _distinct(self._urls)

    def _place(self, path: str) -> tuple[Path, str]:
        """Where a file or folder is; of a glob, the folder above it, and the pattern."""
        plain = Path(path).expanduser()
        if plain.exists():
            place = plain.resolve() if plain.is_dir() else plain.parent.resolve() / plain.name
            if place.is_relative_to(self._out):
                raise InputError(f"{path} lies in {self._out}, where the outputs go; name another.")
            return place, ""
        fixed = next((i for i, part in enumerate(plain.parts) if glob.has_magic(part)), None)
        if fixed is None:
            raise InputError(f"There is no photo or folder {path}.")
        return Path(*plain.parts[:fixed]).resolve(), str(Path(*plain.parts[fixed:]))

    def _matches(self, folder: Path, pattern: str) -> Iterator[Found]:
        # Path.glob's `**` is one thing in Python 3.11 and another later.
        names = sorted(glob.iglob(pattern, root_dir=folder, recursive=True))  # noqa: PTH207
        found = [folder / name for name in names if not (folder / name).is_relative_to(self._out)]
        yield from self._named([path for path in found if _is_photo(path.name)])
        if "**" not in pattern:  # which matches what is below folders as well
            for path in found:
                if path.is_dir():
                    yield from self._below(path)

    def _below(self, folder: Path) -> Iterator[Found]:
        for parent, folders, names in os.walk(folder):
            here = Path(parent)
            folders[:] = sorted(
                name
                for name in folders
                if not name.startswith(".") and (here / name).resolve() != self._out
            )
            yield from self._named([here / name for name in sorted(names) if _is_photo(name)])

    def _named(self, files: list[Path]) -> Iterator[Found]:
        top = self._top
        return _distinct(
            [Found(str(path), str(path), PurePosixPath(path.relative_to(top))) for path in files]
        )


def _distinct(photos: list[Found]) -> Iterator[Found]:
    """Leave the suffixes away from their targets, where that makes no two the same."""
    alike = Counter(found.target.with_suffix("") for found in photos)
    for found in photos:
        stem = found.target.with_suffix("")
        yield found._replace(target=stem) if alike[stem] == 1 else found


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
    try:
        if "://" not in found.address:
            return Path(found.address).read_bytes()
        with fsspec.open(found.address, "rb") as file:
            data: bytes = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"{found.name} does not exist; check its name.") from None
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
    return data


def _is_photo(name: str) -> bool:
    """Whether a file in a folder is called like a photo; `._IMG.jpg` is what macOS adds to one."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _url(url: str) -> Found:
    """The photo at a URL: its name has no secrets, its target begins with the host."""
    parts = urlsplit(url)
    host, path = parts.netloc.rpartition("@")[2], unquote(parts.path)
    steps = [step for step in path.split("/") if step not in ("", ".", "..")]  # none leads out
    if not steps:
        raise InputError(f"{parts.scheme}://{host} names no photo; add its path.")
    target = PurePosixPath(host.replace(":", "_"), *steps)
    return Found(url, f"{parts.scheme}://{host}{path}", target)
