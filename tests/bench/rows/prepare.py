"""From an archive to a dataset, nothing cached: against the script that one would write."""

import io
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import PIL.Image

from devkits import write_devkit
from infra.stores import Store
from model.dataset import Dataset, Labelled
from model.device import usable_cores
from model.images import decode_photo, sample_digest
from pairs import NotMeasured, Row
from photos import archive_for
from pipeline.dataset import dataset_prefix
from pipeline.parameters import VOC_CLASSES, Parameters
from pipeline.preparation import TO_TRAIN, prepare_dataset

_WHAT = "extract, separate, build-dataset: {}"
_AGAINST = "extractall, copy, Pillow, save"


def rows(folder: Path) -> Iterator[Row | NotMeasured]:
    """On a part of VOC 2012, where it is, and on a devkit of VOC 2012's size."""
    small = archive_for("voc")
    if small.exists():
        yield _row(_WHAT.format(small.name), small, folder, 3)
    else:
        yield NotMeasured(_WHAT.format(small.name), _AGAINST, "≥ 3x", "the archive is not here")
    large = folder / "devkit.tar"
    write_devkit(large, pairs=2913, photos=17_000)
    said = f"2,913 of 17,000 photos, {large.stat().st_size / 1e9:.1f} GB"
    yield _row(_WHAT.format(said), large, folder, 5)
    large.unlink()


def _row(what: str, archive: Path, folder: Path, target: float) -> Row:
    number = count()

    def timed(work: Callable[[Path], object]) -> float:
        """Seconds without those of removing what came of it."""
        place = folder / f"prepared-{next(number)}"
        began = time.perf_counter()
        work(place)
        seconds = time.perf_counter() - began
        shutil.rmtree(place)
        return seconds

    def ours(place: Path) -> Path:
        store = Store.open(str(place / "store"))
        parameters = Parameters(archives=(str(archive),), classes=VOC_CLASSES, store=store.url)
        built, _ = prepare_dataset(parameters, store, place / "spool", (), needed=TO_TRAIN)
        return place / "store" / dataset_prefix(built.key)

    def script(place: Path) -> None:
        _script(archive, place)

    script(folder / "script")
    _must_be_the_same(ours(folder / "ours"), folder / "script" / "dataset")
    for place in ("script", "ours"):
        shutil.rmtree(folder / place)

    return Row(
        what, _AGAINST, "times as fast", target, lambda: timed(ours), lambda: timed(script),
        if_missed=lambda: "the script looks at no photo. Ours decodes every one that has a mask, "
        "as the loader will, and hashes its pixels: on "
        f"{usable_cores()} cores that alone takes {_decoding(archive) / usable_cores():.2g} s.",
    )  # fmt: skip


def _must_be_the_same(ours: Path, theirs: Path) -> None:
    """The same pairs, and the same pixels of every tenth."""
    found: dict[str, Labelled] = {}
    names: list[str] = []
    for split in TO_TRAIN:
        data = Dataset(ours, split)
        names += [sample.id for sample in data.samples]
        found |= {data.samples[i].id: data[i] for i in range(0, len(data), 10)}
    if sorted(names) != sorted(path.stem for path in (theirs / "masks").iterdir()):
        raise RuntimeError("the script has made other pairs")
    for name, sample in found.items():
        photo = decode_photo((theirs / "images" / f"{name}.jpg").read_bytes(), name)
        mask = np.array(PIL.Image.open(theirs / "masks" / f"{name}.png"))
        if not (np.array_equal(photo, sample.photo) and np.array_equal(mask, sample.mask)):
            raise RuntimeError(f"the script has made another {name}")


def _decoding(archive: Path) -> float:
    """Seconds of one core to decode and hash the photos that have masks."""
    of: dict[str, dict[str, bytes]] = {"JPEGImages": {}, "SegmentationClass": {}}
    with tarfile.open(archive) as tar:
        for member in tar:
            place = Path(member.name)
            if place.parent.name in of and (file := tar.extractfile(member)):
                of[place.parent.name][place.stem] = file.read()
    seconds = 0.0
    for name in of["SegmentationClass"]:
        if data := of["JPEGImages"].get(name):
            began = time.perf_counter()
            photo = decode_photo(data, name)
            sample_digest(name, photo, photo[:, :, 0])
            seconds += time.perf_counter() - began
    return seconds


def _script(archive: Path, place: Path) -> None:
    """Unpack all, copy what has a mask, look the classes up, save photo and mask."""
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
