"""Augmented batches: against torchvision's reference style, Pillow and transforms v2."""

import io
import tarfile
import time
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import PIL.Image
import psutil
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from infra.stores import Store
from model.dataset import Dataset
from model.device import default_threads
from model.loader import normalise, training_batches
from model.order import BatchOrder
from model.recipe import Recipe, Size
from model.recipes import named
from pairs import Row
from photos import archive_for
from pipeline.dataset import dataset_prefix
from pipeline.parameters import VOC_CLASSES, Parameters
from pipeline.preparation import TO_TRAIN, prepare_dataset
from pipeline.sample_archive import write_sample_archive

_SIDE, _BATCH, _WORKERS = 224, 8, 2
_BATCHES = 40  # of each that are timed
_AGAINST = "Pillow and torchvision v2"
AUGMENTED = {"rotate": 10.0, "jitter": 0.3, "scale": (0.5, 2.0), "flip": 0.5}


def rows(folder: Path) -> Iterator[Row]:
    """On VOC's photos where they are, else on generated ones of that size."""
    torch.set_num_threads(default_threads())  # as a run has it: two would fight with the workers
    archive, dataset = photos(folder)
    data = Dataset(dataset, "train")
    settings = {**AUGMENTED, "image_size": Size(_SIDE, _SIDE), "batch_size": _BATCH}
    recipe = named("voc-resnet-unet").override(settings)

    reads = Reference(archive, data, recipe)

    def ours() -> Iterator[Tensor]:
        order = BatchOrder(0, len(data), _BATCH, epochs=10_000)
        for batch in training_batches(data, recipe, order, _WORKERS):
            yield normalise(batch.images, recipe.normalise)

    def reference() -> Iterator[list[Tensor]]:
        loader = DataLoader(
            reads, _BATCH, shuffle=True, num_workers=_WORKERS, drop_last=True,
            persistent_workers=True,
        )  # fmt: skip
        return chain.from_iterable(repeat(loader))

    what = f"loader: {_SIDE} px, {_WORKERS} workers, {_BATCHES} batches of {_BATCH}"
    yield Row(
        f"{what}, from the start", _AGAINST, "times as fast", 3,
        lambda: _take(_BATCHES, ours()), lambda: _take(_BATCHES, reference()),
    )  # fmt: skip
    our, their = ours(), reference()
    for batches in (our, their):
        _take(len(data) // _BATCH, batches)
    yield Row(
        f"{what}, after the first epoch", _AGAINST, "times as fast", 6,
        lambda: _taken_alone(_BATCHES, our), lambda: _taken_alone(_BATCHES, their),
    )  # fmt: skip


def _take(number: int, batches: Iterator[object]) -> None:
    for _ in zip(range(number), batches, strict=False):
        pass


def photos(folder: Path) -> tuple[Path, Path]:
    """An archive, VOC's where it is, and the folder of the dataset that is built of it."""
    archive = archive_for("voc")
    if not archive.exists():
        archive = folder / "loader.tar"
        write_sample_archive(archive, train=200, val=2, size=400)
    store = Store.open(str(folder / "loader"))
    parameters = Parameters(archives=(str(archive),), classes=VOC_CLASSES, store=store.url)
    built, _ = prepare_dataset(parameters, store, folder / "spool", (), needed=TO_TRAIN)
    return archive, folder / "loader" / dataset_prefix(built.key)


def _taken_alone(number: int, batches: Iterator[object]) -> float:
    """Seconds to take so many; then the processes that read ahead come to rest."""
    began = time.perf_counter()
    _take(number, batches)
    seconds, workers = time.perf_counter() - began, psutil.Process().children()
    before = -1.0
    while before < (now := sum(worker.cpu_times().user for worker in workers)):
        before = now
        time.sleep(0.2)
    return seconds


class Reference(TorchDataset[tuple[Tensor, Tensor]]):
    """The same photos from files' bytes, resized, turned, cropped, flipped and recoloured."""

    def __init__(self, archive: Path, data: Dataset, recipe: Recipe) -> None:
        wanted = {sample.id for sample in data.samples}
        self.pairs: list[tuple[bytes, bytes]] = []
        photos, masks = {}, {}
        with tarfile.open(archive) as tar:
            for one in tar:
                place = Path(one.name)
                if place.stem in wanted and place.parent.name in (
                    "JPEGImages",
                    "SegmentationClass",
                ):
                    file = tar.extractfile(one)
                    assert file
                    of = photos if place.parent.name == "JPEGImages" else masks
                    of[place.stem] = file.read()
        self.pairs = [(photos[name], masks[name]) for name in sorted(wanted)]
        (low, high), size = recipe.scale, recipe.image_size
        side = int(np.median(data.sizes.min(axis=1)))
        self.steps = v2.Compose(
            [
                v2.RandomResize(int(side * low), int(side * high), antialias=True),
                v2.RandomRotation(recipe.rotate, fill={tv_tensors.Mask: 255, "others": 0}),
                v2.RandomCrop(size, pad_if_needed=True, fill={tv_tensors.Mask: 255, "others": 0}),
                v2.RandomHorizontalFlip(recipe.flip),
                v2.RandomApply([v2.ColorJitter(*[recipe.jitter] * 3, recipe.jitter / 4)], 0.8),
                v2.ToImage(),
                v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
                v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        photo, mask = (PIL.Image.open(io.BytesIO(data)) for data in self.pairs[index])
        image, target = self.steps(
            photo.convert("RGB"), tv_tensors.Mask(v2.functional.pil_to_tensor(mask))
        )
        return image, target.squeeze(0)
