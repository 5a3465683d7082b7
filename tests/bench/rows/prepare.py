"""From an archive to a dataset, nothing cached: against the script that one would write."""

import io
import shutil
import tarfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import PIL.Image

from infra.stores import Store
from pairs import Row
from photos import archive_for
from pipeline.parameters import VOC_CLASSES, Parameters
from pipeline.preparation import TO_TRAIN, prepare_dataset


def rows(folder: Path) -> Iterator[Row]:
    """On a part of VOC 2012, where it is."""
    archive = archive_for("voc")
    if not archive.exists():
        return
    number = count()

    def ours() -> None:
        place = folder / f"ours-{next(number)}"
        store = Store.open(str(place / "store"))
        parameters = Parameters(archives=(str(archive),), classes=VOC_CLASSES, store=store.url)
        prepare_dataset(parameters, store, place / "spool", (), needed=TO_TRAIN)
        shutil.rmtree(place)

    def script() -> None:
        place = folder / f"script-{next(number)}"
        _script(archive, place)
        shutil.rmtree(place)

    what = f"extract, separate, build-dataset: {archive.name}"
    yield Row(what, "extractall, copy, Pillow, save", "times as fast", 3, ours, script)


def _script(archive: Path, place: Path) -> None:
    """Unpack all, copy what has a mask, look the colours up, save photo and mask."""
    with tarfile.open(archive) as tar:
        tar.extractall(place / "all", filter="data")
    (masks,) = (place / "all").rglob("SegmentationClass")
    photos = masks.parent / "JPEGImages"
    made = place / "dataset"
    (made / "images").mkdir(parents=True)
    (made / "masks").mkdir()
    for mask in sorted(masks.glob("*.png")):
        photo = photos / f"{mask.stem}.jpg"
        if not photo.exists():
            continue
        shutil.copy(photo, made / "images")
        labels = np.array(PIL.Image.open(io.BytesIO(mask.read_bytes())))
        PIL.Image.fromarray(labels).save(made / "masks" / mask.name)
