"""A step asks for no value of what the device computes: the host need not wait for a GPU.

What is copied to the device is not seen here, but in `test_cuda.py`: it has to be pinned. (torch's
own average of weights copies a counter at every step, and so waits, where `ema` is asked for.)
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.augment import CHANCES, Plan
from model.augment_batch import sampled
from model.job import Job
from model.loader import Batch
from model.loss_terms import LOSS_TERMS
from model.state import TrainingState
from model.train import training_step
from tiny import RECIPE, write_job

# Its tensors have shapes and no values: whoever asks for one, or for a shape that depends on one,
# gets an error.
NO_VALUES = torch.device("meta")


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": " + ".join(LOSS_TERMS), "class_weights": "log", "clip": 1.0, "ema": 0.9},
        {"accumulate": 2, "optimiser": "sgd", "normalise": "per-image"},
        {"net": "resnet_unet", "encoder": "resnet18", "depth": None, "pretrained": False},
    ],
    ids=["losses", "parts", "resnet"],
)
def test_a_training_step(tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = write_job(tmp_path / "job", **({"image_size": 32} | settings))
    job = replace(Job.open(folder, "run", "cpu"), device=NO_VALUES)
    state = TrainingState.initial(job)
    images = torch.empty(4, 3, 32, 32, dtype=torch.uint8, device=NO_VALUES)
    loss = training_step(job, state, Batch(images, images[:, 0]))
    assert (loss.device, loss.shape, state.step) == (NO_VALUES, (), 1)
    assert all(weight.device == NO_VALUES for weight in state.net.parameters())


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_augmentation_on_the_device(fit: str) -> None:
    recipe = RECIPE.override({"fit": fit, "jitter": 0.5})
    sizes = np.array([(20, 30), (7, 9)])
    plan = Plan.of(recipe, sizes, np.full((2, CHANCES), 0.7))
    pixels = torch.empty(664, dtype=torch.int32, device=NO_VALUES)
    images, targets = sampled(pixels, np.array([0, 600]), sizes, plan)
    assert images.device == targets.device == NO_VALUES
    assert images.shape == (2, 3, *targets.shape[1:])
    assert images.dtype == targets.dtype == torch.uint8
