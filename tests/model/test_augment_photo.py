"""A photo's colours by OpenCV: what torchvision makes of them, to the steps of 8 bits."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from model.augment_photo import recoloured


@pytest.mark.parametrize(
    "factors",
    [(0.6, 1, 1, 0), (1, 1.4, 1, 0), (1, 1, 0.5, 0), (1, 1, 1, 0.1), (1.2, 0.7, 1.3, -0.1)],
)
def test_colours_change_as_torchvision_changes_them(
    factors: tuple[float, float, float, float],
) -> None:
    y, x = np.mgrid[:24, :32]
    waves = 128 + 90 * np.stack([np.sin(y / 9), np.cos(x / 7), np.sin((x + y) / 8)], -1)
    photo = waves.astype(np.uint8)
    ours = recoloured(photo, np.ones((24, 32), np.uint8), np.array(factors))
    brightness, contrast, saturation, hue = factors
    wanted = torch.from_numpy(photo).permute(2, 0, 1) / 255
    wanted = F.adjust_contrast(F.adjust_brightness(wanted, brightness), contrast)
    wanted = F.adjust_hue(F.adjust_saturation(wanted, saturation), hue)
    apart = np.abs(255 * wanted.permute(1, 2, 0).numpy() - ours)
    assert apart.mean() < 1.2
    assert apart.max() < 10  # of the brightest colours, whose hue is one of 256


def test_the_mean_that_contrast_goes_by_is_that_of_the_photo() -> None:
    photo = np.full((8, 8, 3), 250, np.uint8)
    photo[:4] = 60
    inside = np.zeros((8, 8), np.uint8)
    inside[:4] = 1
    done = recoloured(photo, inside, np.array((1, 0.5, 1, 0)))
    assert (done[:4] == 60).all()
