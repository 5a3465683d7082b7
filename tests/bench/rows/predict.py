"""Predicting a folder of photos: against a loop that opens, predicts and saves one by one."""

import shutil
import tarfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import PIL.Image
import torch

from infra.stores import Store
from model import checkpoint
from model.device import usable_cores
from model.inference import Predictor
from model.job import Job
from model.loader import normalise
from model.predict import predict
from model.recipes import named
from model.state import TrainingState
from pairs import Row
from pipeline.dataset import dataset_prefix
from pipeline.parameters import Parameters
from pipeline.preparation import TO_TRAIN, prepare_dataset
from pipeline.sample_archive import SAMPLE_CLASSES, write_sample_archive

_PHOTOS = 1000


def rows(folder: Path) -> Iterator[Row]:
    """By the dry run's net, on photos as the dry run's."""
    torch.set_num_threads(usable_cores())
    photos, path = _photos(folder), _checkpoint(folder)
    number = count()

    def ours() -> None:
        predictor, description = Predictor.load(path, "cpu")
        out = folder / f"ours-{next(number)}"
        predict(predictor, description, [str(photos)], out)
        shutil.rmtree(out)

    def loop() -> None:
        predictor, _ = Predictor.load(path, "cpu")
        out = folder / f"loop-{next(number)}"
        out.mkdir()
        for photo in sorted(photos.iterdir()):
            image = np.array(PIL.Image.open(photo).convert("RGB"))
            seen = torch.from_numpy(image).permute(2, 0, 1)[None]
            with torch.no_grad():
                logits = predictor.net(normalise(seen, predictor.recipe.normalise))
            mask = logits.argmax(1)[0].numpy().astype(np.uint8)
            PIL.Image.fromarray(mask).save(out / f"{photo.stem}.png")
        shutil.rmtree(out)

    what = f"predict {_PHOTOS:,} photos, CPU, tiny net"
    yield Row(
        what, "open, predict, save in a loop", "times as fast", 2, ours, loop,
        if_missed=lambda: f"the net alone takes {_in_the_net(photos, path):.2g} s, one photo after "
        "the other by all cores; what is read and written beside it is the rest.",
    )  # fmt: skip


def _in_the_net(photos: Path, path: Path) -> float:
    """Seconds in which the net sees all photos, read beforehand."""
    predictor, _ = Predictor.load(path, "cpu")
    read = [np.array(PIL.Image.open(photo).convert("RGB")) for photo in sorted(photos.iterdir())]
    began = time.perf_counter()
    for image in read:
        seen = torch.from_numpy(image).permute(2, 0, 1)[None]
        with torch.no_grad():
            predictor.net(normalise(seen, predictor.recipe.normalise))
    return time.perf_counter() - began


def _photos(folder: Path) -> Path:
    archive = folder / "predict.tar"
    write_sample_archive(archive, train=_PHOTOS - 2, val=2, unlabelled=0)
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "predict", filter="data")
    archive.unlink()
    (found,) = (folder / "predict").rglob("JPEGImages")
    return found


def _checkpoint(folder: Path) -> Path:
    """Of the dry run's net before its first step: what it says takes as long as what it learns."""
    archive, job = folder / "shapes.tar", folder / "job"
    write_sample_archive(archive, train=8, val=2, unlabelled=0)
    store = Store.open(str(folder / "store"))
    parameters = Parameters(archives=(str(archive),), classes=SAMPLE_CLASSES, store=store.url)
    built, _ = prepare_dataset(parameters, store, folder / "spool", (), needed=TO_TRAIN)
    job.mkdir()
    (job / "dataset").symlink_to(folder / "store" / dataset_prefix(built.key))
    (job / "recipe.json").write_text(named("tiny").model_dump_json())
    opened = Job.open(job, "bench", "cpu")
    checkpoint.save(job, opened.origin, TrainingState.initial(opened).state_dict())
    return job / "00000000" / checkpoint.BLOB
