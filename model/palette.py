"""The PASCAL VOC colour map: which colour stands for which class index in a mask."""

import numpy as np
from numpy.typing import NDArray


def voc_palette() -> NDArray[np.uint8]:
    """Return the VOC colour map, uint8 [256, 3] (RGB); row 0 is black, row 255 the cream of void.

    Source: `VOClabelcolormap` of the PASCAL VOC 2012 development kit. Bits 0, 3, 6 of an index
    are the highest bits of red, bits 1, 4, 7 those of green, bits 2, 5 those of blue, so that
    small indices lie far apart.
    """
    index = np.arange(256)[:, None] >> np.arange(3)  # one column a channel: its bits at 0, 3, 6
    colours = sum(((index >> 3 * k) & 1) << (7 - k) for k in range(3))
    return np.asarray(colours, dtype=np.uint8)


def colourise(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Paint class indices `mask`, uint8 [H, W], in VOC colours; returns RGB, uint8 [H, W, 3]."""
    return voc_palette()[mask]
