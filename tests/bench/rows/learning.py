"""Time to a validation score: a faster step that learns less would be no gain."""

import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from itertools import count
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from infra.stores import Store
from model.dataset import Dataset
from model.device import default_threads, default_workers
from model.loader import normalise
from model.metrics import ConfusionMatrix
from model.nets import build_net
from model.recipes import named
from model.train import train
from pairs import Row
from pipeline.dataset import dataset_prefix
from pipeline.parameters import Parameters
from pipeline.preparation import TO_TRAIN, prepare_dataset
from pipeline.sample_archive import SAMPLE_CLASSES, write_sample_archive
from rows.loader import Reference
from tiny import journal

_SCORE = 0.5  # mIoU


def rows(folder: Path) -> Iterator[Row]:
    """The dry run's net on the dry run's photos, scored after every epoch."""
    archive = folder / "learning.tar"
    write_sample_archive(archive)
    store = Store.open(str(folder / "learning-store"))
    parameters = Parameters(archives=(str(archive),), classes=SAMPLE_CLASSES, store=store.url)
    built, _ = prepare_dataset(parameters, store, folder / "spool", (), needed=TO_TRAIN)
    dataset = folder / "learning-store" / dataset_prefix(built.key)
    recipe, number = named("tiny"), count()
    data, judged = Dataset(dataset, "train"), Dataset(dataset, "val")
    reads = Reference(archive, data, recipe)
    epochs: dict[str, list[int]] = {"ours": [], "loop": []}

    def ours() -> None:
        job = folder / f"learning-{next(number)}"
        job.mkdir()
        (job / "recipe.json").write_text(recipe.model_dump_json())
        (job / "dataset").symlink_to(dataset)

        def reached() -> bool:
            return any(record["miou"] >= _SCORE for record in journal(job, "epoch"))

        with redirect_stdout(io.StringIO()):
            train(job, run_id="bench", device="cpu", workers=default_workers(), stop=reached)
        if not reached():
            raise RuntimeError(f"ours never came to {_SCORE}")
        epochs["ours"].append(len(journal(job, "epoch")))

    def loop() -> None:
        torch.manual_seed(next(number))
        torch.set_num_threads(default_threads())
        net = build_net(recipe, len(SAMPLE_CLASSES))
        loader = DataLoader(
            reads, recipe.batch_size, shuffle=True, num_workers=default_workers(), drop_last=True,
            persistent_workers=default_workers() > 0,
        )  # fmt: skip
        optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.lr)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, recipe.lr, epochs=recipe.epochs, steps_per_epoch=len(loader)
        )
        for epoch in range(1, recipe.epochs + 1):
            net.train()
            for images, targets in loader:
                loss = nn.functional.cross_entropy(net(images), targets.long(), ignore_index=255)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
            if _miou(net, judged) >= _SCORE:
                epochs["loop"].append(epoch)
                return
        raise RuntimeError(f"the loop never came to {_SCORE}")

    yield Row(
        f"training to a validation mIoU of {_SCORE:g}: the dry run, CPU",
        "the same net, torchvision's reference style", "times as fast", 1, ours, loop,
        besides=lambda: f"epochs until then: {epochs['ours']} and {epochs['loop']}.",
    )  # fmt: skip


def _miou(net: nn.Module, data: Dataset) -> float:
    net.eval()
    confusion = ConfusionMatrix(len(SAMPLE_CLASSES))
    for position in range(len(data)):
        sample = data[position]
        seen = normalise(torch.from_numpy(sample.photo).permute(2, 0, 1)[None], "imagenet")
        with torch.no_grad():
            guess = net(seen).argmax(1)[0]
        confusion.update(guess, torch.from_numpy(sample.mask))
    return confusion.miou()
