"""Bytes to pixels and back, for photos and for masks inside a dataset."""

import hashlib

import cv2
import numpy as np
import numpy.typing as npt

from model.errors import InputError

Image = npt.NDArray[np.uint8]

PIXEL = 4  # bytes of a photo's and a mask's: red, green, blue, class

# RGB of what lies outside a photo: ImageNet's mean, which is 0 for the net, as its own padding is.
OUTSIDE = (124, 116, 104)

# Shards hold photos the right way up already, so EXIF must not turn them a second time.
_PHOTO = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION

# Masks are runs of one class: to look for patterns, and for the best filter of each row, takes four
# times as long and saves nothing.
_MASK = [
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE),
]

# OpenCV's own pool would fight with the loader's worker processes over the same cores.
cv2.setNumThreads(1)


def resized_photo(photo: Image, height: int, width: int) -> Image:
    """uint8 [H, W, 3] to [height, width, 3]: areas are averaged where it shrinks, else bilinear."""
    shrinks = height * width < photo.shape[0] * photo.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(photo, (width, height), interpolation=method), np.uint8)


def resized_mask(mask: Image, height: int, width: int) -> Image:
    """uint8 [H, W] to [height, width]; classes are never mixed."""
    method = cv2.INTER_NEAREST_EXACT
    return np.asarray(cv2.resize(mask, (width, height), interpolation=method), np.uint8)


def decode_photo(data: bytes, name: str) -> Image:
    """JPEG or PNG bytes to uint8 [H, W, 3] in RGB; InputError names `name` when broken."""
    return _decode(data, _PHOTO, name, "photo")


def decode_mask(data: bytes, name: str) -> Image:
    """Grey 8-bit PNG bytes to uint8 [H, W] of class indices; InputError when broken."""
    mask = _decode(data, cv2.IMREAD_UNCHANGED, name, "mask")
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise InputError(f"The mask of {name} is not an 8-bit grey image; build the dataset again.")
    return mask


def encode_mask(mask: Image) -> bytes:
    """uint8 [H, W] of class indices to grey PNG bytes."""
    return _encode(".png", mask, _MASK)


def encode_jpeg(photo: Image, quality: int = 95) -> bytes:
    """uint8 [H, W, 3] in RGB to JPEG bytes."""
    return _encode(
        ".jpg", cv2.cvtColor(photo, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )


def encode_png(photo: Image) -> bytes:
    """uint8 [H, W, 3] in RGB to PNG bytes, without loss."""
    return _encode(".png", cv2.cvtColor(photo, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 4])


def sample_digest(name: str, photo: Image, mask: Image) -> bytes:
    """sha256 over id, shape, pixels and mask: what "the same sample" means."""
    digest = hashlib.sha256(f"{name}\n{photo.shape}\n".encode())
    digest.update(np.ascontiguousarray(photo).data)
    digest.update(np.ascontiguousarray(mask).data)
    return digest.digest()


def _decode(data: bytes, flags: int, name: str, what: str) -> Image:
    pixels = None
    if data:
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error:
            pixels = None
    if pixels is None:
        raise InputError(f"The {what} of {name} cannot be decoded; the file is damaged.")
    return pixels  # type: ignore[return-value]  # OpenCV types every array as any dtype


def _encode(suffix: str, pixels: cv2.typing.MatLike, options: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, pixels, options)
    if not done:
        raise InputError(f"An image of shape {pixels.shape} cannot be written as {suffix}.")
    return data.tobytes()
