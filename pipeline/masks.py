"""Photos and masks as they come in archives, turned into what a dataset holds.

Masks become class indices without a Python loop over pixels: palette PNGs hold the indices
already, RGB masks go through a table of all 2^24 colours.
"""

import io
import warnings
from functools import cache

import numpy as np
import numpy.typing as npt
import PIL.Image
from PIL.Image import Transpose

from model.errors import InputError
from model.images import Image, encode_jpeg, encode_png, resized_mask, resized_photo
from model.manifest import VOID
from model.palette import voc_palette

_PHOTO_FORMATS = ("JPEG", "PNG")
_MASK_FORMATS = ("PNG", "GIF", "BMP")
_EXIF_ORIENTATION = 0x0112
# What brings a photo upright, by its EXIF orientation (Exif 2.32, tag Orientation).
_UPRIGHT: dict[object, Transpose] = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_JPEG_END, _PLAIN = b"\xff\xd9", ("RGB", "L")
_PNG_FIRST, _PNG_BITS = slice(12, 16), 24  # a PNG's first chunk; the bits of a sample in IHDR
_PNG_SPREAD = {2: 85, 4: 17}  # Pillow spreads grey samples of so many bits over 0 to 255
_UNKNOWN = 254  # no class has it: there are at most 254

# Pillow warns of metadata that do not count here; what does count is refused by its name. For the
# whole process, as masks are read in threads, and catch_warnings is not for those.
warnings.filterwarnings("ignore", module=r"PIL\.")


def read_mask(
    data: bytes,
    classes: int,
    name: str,
    max_pixels: float,
    values: tuple[int, ...] | None = None,
) -> Image:
    """Mask bytes to uint8 [H, W] of class indices below `classes`, 255 for void.

    Palette and grey images hold indices, RGB ones the VOC colours (alpha is ignored). With
    `values`, the pixel value of each class, all kinds hold those values, RGB ones as shades of
    grey; 255 is still void unless it is a class's. InputError names `name` when the mask is broken,
    too large, or has an index, value or colour outside the classes.
    """
    picture = _open(data, name, _MASK_FORMATS, max_pixels)
    if getattr(picture, "n_frames", 1) > 1:
        raise InputError(f"{name} has several frames; a mask is one picture.")
    mask = _held(picture, data, name, grey=values is not None)
    if values is not None:
        return _mapped(mask, values, name)
    # What is below `classes` wraps round, and is then above all that lies between it and void.
    outside = mask - np.uint8(classes) < VOID - classes
    if outside.any():
        raise InputError(
            f"{name} has the class index {mask[outside].min()}, but there are only {classes} "
            f"classes (0 to {classes - 1}, and {VOID} for void); name all classes with --classes, "
            "or the value of each with --layout mask_values=…."
        )
    return mask


def _held(picture: PIL.Image.Image, data: bytes, name: str, *, grey: bool) -> Image:
    """What a mask's pixels hold, uint8 [H, W]; RGB ones by VOC's colours, or as shades of grey."""
    if picture.mode in ("P", "L"):
        mask = np.asarray(picture)
        if picture.mode == "L" and picture.format == "PNG":
            mask = mask // _PNG_SPREAD.get(data[_PNG_BITS], 1)
    elif picture.mode == "1":
        mask = np.asarray(picture).astype(np.uint8)
    elif picture.mode in ("RGB", "RGBA"):
        rgb = np.asarray(picture.convert("RGB"))
        if grey:
            mask, known = rgb[..., 0], (rgb == rgb[..., :1]).all(axis=-1)
        else:
            red, green, blue = np.moveaxis(rgb.astype(np.uint32), -1, 0)
            mask = _class_of_colour()[red << 16 | green << 8 | blue]
            known = mask != _UNKNOWN
        if not known.all():
            y, x = np.argwhere(~known)[0]
            meant = "shade of grey" if grey else "colour of the VOC palette"
            raise InputError(
                f"{name} has the colour {tuple(int(v) for v in rgb[y, x])} at row {y}, column {x}, "
                f"which is no {meant}; give masks as palette or grey PNGs."
            )
    else:
        raise InputError(f"{name} is a {picture.mode} image; give masks as palette or grey PNGs.")
    return mask


def _mapped(mask: Image, values: tuple[int, ...], name: str) -> Image:
    """Each value's place in `values`; InputError for one that is not there."""
    table = np.full(256, _UNKNOWN, np.uint8)
    table[VOID] = VOID  # unless a class has that value
    table[list(values)] = np.arange(len(values))
    labels: Image = table[mask]
    if (labels == _UNKNOWN).any():
        y, x = np.argwhere(labels == _UNKNOWN)[0]
        raise InputError(
            f"{name} has the value {mask[y, x]} at row {y}, column {x}, which no class has; "
            f"name all with --layout mask_values={','.join(map(str, values))},…, and their classes "
            "with --classes."
        )
    return labels


def read_photo(data: bytes, size: tuple[int, int], name: str, max_pixels: float) -> bytes:
    """Check a photo, and return bytes that decode to RGB of `size` (height, width), if at all.

    An ordinary JPEG is returned as it is; its EXIF no longer counts, as the loader ignores it. A
    photo that EXIF turns is turned into place if that is how it fits its mask. A turned photo, and
    whatever is not a grey or RGB JPEG, becomes a PNG; it loses nothing but the lower half of 16
    bits.
    InputError names `name` when it is broken, too large, or does not have its mask's size.
    """
    picture = _open(data, name, _PHOTO_FORMATS, max_pixels)
    height, width = size
    turn = _turn(picture)
    upright = picture if turn is None else picture.transpose(turn)
    if turn is not None and (upright.height, upright.width) == size:
        return encode_png(_rgb(upright))
    if (picture.height, picture.width) != size:
        raise InputError(
            f"{name} is {upright.width}x{upright.height} pixels, but its mask is {width}x{height}; "
            "they must have the same size. Mend one of them, or take both out."
        )
    if picture.format != "PNG" and picture.mode in _PLAIN:
        return data
    return encode_png(_rgb(picture))


def fit(photo: Image, mask: Image, max_side: int) -> tuple[bytes, Image]:
    """Shrink both so that the longest side is `max_side`: photo as JPEG bytes, mask uint8 [H, W].

    Areas are averaged in the photo; classes are never mixed in the mask.
    """
    height, width = mask.shape
    share = max_side / max(height, width)
    size = max(1, round(height * share)), max(1, round(width * share))
    return encode_jpeg(resized_photo(photo, *size)), resized_mask(mask, *size)


def _is_plain(picture: PIL.Image.Image) -> bool:
    """Whether it is a JPEG that is left as it is.

    One with its end mark is whole, as far as Pillow asks. Whoever decodes it sees what else is
    wrong, so it need not be decoded here as well.
    """
    return picture.format == "JPEG" and picture.mode in _PLAIN and _turn(picture) is None


def _turn(picture: PIL.Image.Image) -> Transpose | None:
    """What brings a photo upright; None when its EXIF is broken, has no say or is not there."""
    try:
        return _UPRIGHT.get(picture.getexif().get(_EXIF_ORIENTATION))
    except Exception:  # junk makes Pillow raise whatever there is
        return None


def _rgb(picture: PIL.Image.Image) -> Image:
    """The picture as uint8 [H, W, 3]."""
    if picture.mode == "I;16":  # Pillow would turn every value over 255 into white
        picture = PIL.Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    return np.asarray(picture.convert("RGB"))


def _open(data: bytes, name: str, formats: tuple[str, ...], max_pixels: float) -> PIL.Image.Image:
    """Look at the header, refuse what is too large, and only then decode every byte."""
    if not data:
        raise InputError(f"{name} is empty; replace it, or leave the pair out.")
    try:
        picture = PIL.Image.open(io.BytesIO(data), formats=formats)
        if picture.width * picture.height > max_pixels:
            raise InputError(
                f"{name} says it has {picture.width}x{picture.height} pixels, over the limit of "
                f"{max_pixels / 1e6:g} megapixels; replace it, or raise the limit with "
                "--limit photo_megapixels=…."
            )
        if picture.format == "PNG" and data[_PNG_FIRST] != b"IHDR":
            raise OSError("its header does not come first")
        if not _is_plain(picture) or not data.rstrip(b"\0").endswith(_JPEG_END):
            picture.load()
    except (InputError, MemoryError):
        raise
    except PIL.Image.DecompressionBombError:
        raise InputError(
            f"{name} unpacks to far more pixels than any photo; replace it, or leave the pair out."
        ) from None
    except Exception as error:  # junk makes Pillow raise whatever there is
        said = f" ({error})" if isinstance(error, OSError) and str(error)[:6] != "cannot" else ""
        raise InputError(
            f"{name} is damaged or not one of {', '.join(formats)}{said}; replace it, or leave the "
            "pair out."
        ) from None
    picture.info.pop("transparency", None)  # it does not count, and Pillow may trip over it
    return picture


@cache
def _class_of_colour() -> npt.NDArray[np.uint8]:
    """uint8 [2^24]: the class index of each packed RGB colour of the VOC palette, else unknown."""
    table = np.full(1 << 24, _UNKNOWN, np.uint8)
    red, green, blue = voc_palette().astype(np.uint32).T
    table[red << 16 | green << 8 | blue] = np.arange(256, dtype=np.uint8)
    return table
