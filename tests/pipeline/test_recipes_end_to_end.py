"""Every recipe from an archive to masks, as a user types it; one Prefect server for all."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from commands import VocTrain, home_store
from dozen import COUNTS, dozen, last_photo
from folder_archives import binary, two_folders
from model import checkpoint
from model.manifest import Manifest
from model.palette import voc_palette
from model.recipes import RECIPES
from pipeline.parameters import VOC_CLASSES
from pipeline.sample_archive import SAMPLE_CLASSES, write_sample_archive

CLASSES = {
    "people-unet11": ("background", "person"),
    "people-unet16": ("background", "person"),
    "people-resnet34-unet": ("background", "person"),
    "carvana-unet": ("background", "car"),
    "simple-fcn": ("background", "object"),
}
# As little work as teaches anything; the width is the net's own in a real run.
SMALL = ("epochs=1", "batch_size=4", "width=4", "image_size=32", "min_miou=none")
MAX_SIDE = ("--max-side", "64")


pytestmark = pytest.mark.usefixtures("flows")


def run(voc_train: VocTrain, archive: Path, recipe: str, *more: object) -> dict[str, Any]:
    """`voc-train run local`: what its object says."""
    sets = [word for setting in SMALL for word in ("--set", setting)]
    said = voc_train(
        *("run", "local", "--archive", archive, "--recipe", recipe, *sets, *more),
        *("--device", "cpu", "--workers", "0", "--wandb", "disabled", "--json"),
    )
    assert said.code == 0, said.err
    outcome: dict[str, Any] = json.loads(said.out.splitlines()[-1])
    return outcome


def learned(outcome: dict[str, Any]) -> checkpoint.Description:
    """What a run's checkpoint says of itself, once its bytes are verified."""
    path = Path(outcome["checkpoint"])
    assert checkpoint.file_sha256(path) == outcome["sha256"]
    description, state = checkpoint.load(path)
    assert checkpoint.weights_digest(state["net"]) == outcome["weights_digest"]
    return description


def dataset() -> Manifest:
    """The one dataset in the store."""
    (manifest,) = home_store().glob("datasets/*/manifest.json")
    return Manifest.model_validate_json(manifest.read_bytes())


def must_agree(voc_train: VocTrain, outcome: dict[str, Any], archive: Path, *more: object) -> None:
    """`voc-train evaluate` says of the checkpoint what the run said."""
    assert math.isfinite(outcome["miou"])
    said = voc_train(
        *("evaluate", outcome["checkpoint"], "--archive", archive, "--device", "cpu", "--json"),
        *more,
    )
    assert said.code == 0, said.err
    score = json.loads(said.out.splitlines()[-1])
    assert {key: score[key] for key in ("miou", "iou", "dice")} == {
        key: outcome[key] for key in ("miou", "iou", "dice")
    }
    assert score["images"] == dataset().counts["val"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe(voc_train: VocTrain, tmp_path: Path, recipe: str) -> None:
    archive = dozen(recipe, tmp_path / "dozen.tar")
    outcome = run(voc_train, archive, recipe, *MAX_SIDE)
    description = learned(outcome)
    classes = CLASSES.get(recipe, VOC_CLASSES)
    assert description.recipe.name == recipe
    assert description.classes == classes
    assert tuple(outcome["iou"]) == classes
    assert dataset().counts == COUNTS | {"test": 0}
    assert description.step == COUNTS["train"] // description.recipe.batch_size
    must_agree(voc_train, outcome, archive, *MAX_SIDE)

    photo, out = last_photo(archive, tmp_path), tmp_path / "masks"
    said = voc_train("predict", outcome["checkpoint"], photo, "--out", out, "--device", "cpu")
    assert said.code == 0, said.err
    (path,) = out.iterdir()
    assert path.name == f"{photo.stem}.png"
    with Image.open(path) as mask, Image.open(photo) as seen:
        assert (mask.mode, mask.size) == ("P", seen.size)
        assert np.asarray(mask).max() < len(classes)
        colours = np.asarray(mask.convert("RGB"))
        assert np.array_equal(colours, voc_palette()[np.asarray(mask)])


def test_two_folders_of_black_and_white_masks(voc_train: VocTrain, tmp_path: Path) -> None:
    names = [f"site{site}/{number}" for site in range(3) for number in range(4)]
    archive = two_folders(
        tmp_path / "data.tar", names, photos="pictures", masks="truth", suffix="_seg"
    )
    layout = {"photos": "pictures", "masks": "truth", "mask_suffix": "_seg"}
    layout |= {"mask_values": "0,255", "group": "(.+)/.+"}
    said = [word for item in layout.items() for word in ("--layout", "=".join(item))]
    outcome = run(voc_train, archive, "tiny", *said, "--classes", "ground,thing")
    assert learned(outcome).classes == ("ground", "thing")
    assert dataset().counts == COUNTS | {"test": 0}
    truth = [int(count) for count in sum(np.bincount(binary(n).ravel()) for n in names)]
    seen = zip(dataset().pixels["train"], dataset().pixels["val"], strict=True)
    assert [sum(both) for both in seen] == [*truth, 0]
    must_agree(voc_train, outcome, archive, *said)


def test_a_devkit_of_other_classes(voc_train: VocTrain, tmp_path: Path) -> None:
    """A net for two classes that is given four."""
    archive = tmp_path / "shapes.tar"
    write_sample_archive(archive, train=8, val=4, unlabelled=1)
    classes = ("--classes", ",".join(SAMPLE_CLASSES))
    outcome = run(voc_train, archive, "simple-fcn", *classes, *MAX_SIDE)
    assert learned(outcome).classes == SAMPLE_CLASSES
    assert tuple(outcome["iou"]) == SAMPLE_CLASSES
    must_agree(voc_train, outcome, archive, *MAX_SIDE)


@pytest.mark.parametrize(
    ("settings", "cure"),
    [(("depth=3",), "--set depth=none"), (("batch_size=1", "image_size=32"), "image_size=64")],
)
def test_what_cannot_be_trained_is_refused_first(
    voc_train: VocTrain, tmp_path: Path, settings: tuple[str, ...], cure: str
) -> None:
    archive = dozen("voc-resnet-unet", tmp_path / "dozen.tar")
    sets = [word for setting in settings for word in ("--set", setting)]
    said = voc_train(
        *("run", "local", "--archive", archive, "--recipe", "voc-resnet-unet", *sets),
        *("--wandb", "disabled"),
    )
    assert said.code == 2
    assert cure in said.err
    assert not (home_store() / "archives").exists()
